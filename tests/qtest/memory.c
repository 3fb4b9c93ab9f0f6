/*
 * What the guest's memory must hold: see memory.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "memory.h"

/* A PC's RAM below 1 MiB ends here; what follows up to 1 MiB is not ours. */
#define LOW_END    0xa0000u
#define HIGH_START 0x100000u

#define LONGEST_RUN_PAGES 256

Memory *memory_new(uint64_t size)
{
    Memory *memory = g_new0(Memory, 1);

    memory->size = size;
    memory->others_start = size;
    memory->others_end = size;
    memory->bytes = g_malloc0(size);
    memory->rand = g_rand_new_with_seed(0x4665727);
    return memory;
}

void memory_free(Memory *memory)
{
    g_free(memory->bytes);
    g_rand_free(memory->rand);
    g_free(memory);
}

static void write_noise(Memory *memory, Vm *vm, uint64_t address, uint64_t nr_bytes)
{
    for (uint64_t i = 0; i < nr_bytes; i++) {
        memory->bytes[address + i] = (uint8_t)g_rand_int(memory->rand);
    }
    qtest_bufwrite(vm->qts, address, memory->bytes + address, nr_bytes);
}

static void write_value(Memory *memory, Vm *vm, uint64_t address, uint64_t nr_bytes, uint8_t value)
{
    memset(memory->bytes + address, value, nr_bytes);
    qtest_memset(vm->qts, address, value, nr_bytes);
}

/* A random run of at most @longest pages, above 1 MiB and below the last quarter. */
static uint64_t random_run(Memory *memory, unsigned longest, uint64_t *nr_bytes)
{
    uint32_t first = HIGH_START / MEMORY_PAGE;
    uint32_t end = (uint32_t)(memory->size / 4 * 3 / MEMORY_PAGE);
    uint32_t page = (uint32_t)g_rand_int_range(memory->rand, (gint32)first, (gint32)end);
    uint32_t nr_pages = (uint32_t)g_rand_int_range(memory->rand, 1, (gint32)longest + 1);

    *nr_bytes = (uint64_t)MIN(nr_pages, end - page) * MEMORY_PAGE;
    return (uint64_t)page * MEMORY_PAGE;
}

void memory_fill(Memory *memory, Vm *vm, uint64_t filled)
{
    uint64_t nr_bytes;
    uint64_t address;

    write_noise(memory, vm, 0x1000, MEMORY_PAGE);
    write_noise(memory, vm, LOW_END - MEMORY_PAGE, MEMORY_PAGE);
    write_noise(memory, vm, HIGH_START, MEMORY_PAGE);
    write_noise(memory, vm, memory->size - MEMORY_PAGE, MEMORY_PAGE);
    for (int i = 0; i < 16; i++) {
        address = random_run(memory, 16, &nr_bytes);
        write_value(memory, vm, address, nr_bytes, i % 2 ? 0 : (uint8_t)i);
        /* A page that is zero but for one byte, its last. */
        address = random_run(memory, 1, &nr_bytes);
        write_value(memory, vm, address, nr_bytes, 0);
        write_noise(memory, vm, address + nr_bytes - 1, 1);
    }
    for (uint64_t done = 0; done < filled; done += nr_bytes) {
        address = random_run(memory, done % 3 ? LONGEST_RUN_PAGES : 3, &nr_bytes);
        write_noise(memory, vm, address, nr_bytes);
    }
}

void memory_scribble(Memory *memory, Vm *vm, uint64_t nr_bytes)
{
    for (uint64_t done = 0; done < nr_bytes;) {
        uint64_t nr;
        uint64_t address = random_run(memory, 64, &nr);

        switch (g_rand_int_range(memory->rand, 0, 8)) {
        case 0:
            write_value(memory, vm, address, nr, 0);
            break;
        case 1:
            /* Parts of two pages, or of one. */
            write_noise(memory, vm, address + nr / 2 + 100, MIN(nr / 2 - 100, 3000));
            break;
        case 2:
            write_noise(memory, vm, address + 17, 1);
            break;
        default:
            write_noise(memory, vm, address, nr);
            break;
        }
        done += nr;
    }
}

static uint64_t compare(const Memory *memory, const uint8_t *found, const Vm *vm, uint64_t from,
                        uint64_t to)
{
    uint64_t nr_bad = 0;

    for (uint64_t address = from; address < to; address += MEMORY_PAGE) {
        const uint8_t *is = found + address;
        const uint8_t *ought = memory->bytes + address;

        if (memcmp(is, ought, MEMORY_PAGE) == 0) {
            continue;
        }
        if (nr_bad++ == 0) {
            unsigned i = 0;

            while (is[i] == ought[i]) {
                i++;
            }
            g_printerr("%s: memory at 0x%" PRIx64 " is 0x%02x and should be 0x%02x\n", vm->name,
                       address + i, is[i], ought[i]);
        }
    }
    return nr_bad;
}

GMappedFile *memory_dump(Vm *vm, uint64_t address, uint64_t nr_bytes)
{
    g_autofree char *path = in_dir("{dir}/memory");
    g_autofree char *arguments = g_strdup_printf(
        "{ 'val': %" PRIu64 ", 'size': %" PRIu64 ", 'filename': '%s' }", address, nr_bytes, path);
    GMappedFile *file;

    vm_do(vm, "pmemsave", arguments);
    file = g_mapped_file_new(path, FALSE, NULL);
    g_assert_nonnull(file);
    g_assert_cmpuint(g_mapped_file_get_length(file), ==, nr_bytes);
    unlink(path);
    return file;
}

void memory_take(Memory *memory, Vm *vm)
{
    GMappedFile *file = memory_dump(vm, 0, memory->size);

    memcpy(memory->bytes, g_mapped_file_get_contents(file), memory->size);
    g_mapped_file_unref(file);
}

uint64_t memory_count_differences(const Memory *memory, Vm *vm)
{
    GMappedFile *file = memory_dump(vm, 0, memory->size);
    const uint8_t *found = (const uint8_t *)g_mapped_file_get_contents(file);
    uint64_t nr_bad = compare(memory, found, vm, 0, LOW_END) +
                      compare(memory, found, vm, HIGH_START, memory->others_start) +
                      compare(memory, found, vm, memory->others_end, memory->size);

    g_mapped_file_unref(file);
    return nr_bad;
}

void memory_check(const Memory *memory, Vm *vm)
{
    g_assert_cmpuint(memory_count_differences(memory, vm), ==, 0);
}
