/*
 * Kinds of memory, devices whose state goes along, and vCPUs that write meanwhile.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#include "case.h"

/* --- Memory ---------------------------------------------------------------------------------- */

/* Where a PC's RAM goes on above the hole below 4 GiB, and where a DIMM is put. */
#define ABOVE_4G (UINT64_C(4) << 30)

static void write_above_4g(Run *run)
{
    for (uint64_t i = 0; i < 32; i++) {
        qtest_writeq(run->source->qts, ABOVE_4G + i * MIB / 2 + i * 8, 0xfe11 + i);
    }
}

static void check_above_4g(Run *run)
{
    for (uint64_t i = 0; i < 32; i++) {
        uint64_t address = ABOVE_4G + i * MIB / 2 + i * 8;

        g_assert_cmphex(qtest_readq(run->destination->qts, address), ==, 0xfe11 + i);
        g_assert_cmphex(qtest_readq(run->destination->qts, address + 4096), ==, 0);
    }
}

/* What is shared is not sent: only the firmware's and the like's few pages are. */
static void expect_hardly_anything(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);

    g_assert_cmpint(qdict_get_int(info, "total"), <, run->memory->size / 2);
    g_assert_cmpint(qdict_get_int(info, "transferred"), <, MIB);
    qobject_unref(info);
}

/* Nothing of it is plugged in, so nothing of it is read or sent. */
static void expect_unplugged_skipped(Run *run)
{
    QDict *info = vm_command(run->source, "query-ferry", NULL);

    g_assert_cmpint(qdict_get_int(info, "total"), >, 256 * (int64_t)MIB);
    g_assert_cmpint(qdict_get_int(info, "skipped-pages"), >=, 256 * (int64_t)MIB / 4096);
    qobject_unref(info);
}

/* --- Block devices --------------------------------------------------------------------------- */

static const char *no_qemu_img(void)
{
    return have_qemu_img() ? NULL : "QTEST_QEMU_IMG does not name a qemu-img";
}

static void make_disks(Run *run)
{
    static const char *const names[] = {"source", "destination"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *name = g_strdup_printf("{dir}/%s.qcow2", names[i]);
        g_autofree char *path = in_dir(name);

        g_assert_true(mkimg(path, "qcow2", 16));
    }
}

#define DISK "-blockdev qcow2,node-name=disk,file.driver=file,file.filename={dir}/{vm}.qcow2"

static void start_bitmap(Run *run)
{
    vm_do(run->source, "block-dirty-bitmap-add", "{ 'node': 'disk', 'name': 'backup' }");
    g_free(vm_hmp(run->source, "qemu-io disk \"write -P 7 1M 192k\""));
}

/* Too fine a bitmap for the blackout at this rate. */
static void start_fine_bitmap(Run *run)
{
    vm_do(run->source, "block-dirty-bitmap-add",
          "{ 'node': 'disk', 'name': 'backup', 'granularity': 512 }");
    g_free(vm_hmp(run->source, "qemu-io disk \"write -P 7 1M 256k\""));
}

/* There are no pages to leave missing: it comes in the blackout. */
static void begin_postcopy(Run *run)
{
    vm_do(run->source, "migrate-start-postcopy", NULL);
    vm_do(run->source, "migrate-set-parameters",
          "{ 'max-bandwidth': 0, 'avail-switchover-bandwidth': 4096 }");
    g_free(vm_wait_status(run->destination, "completed"));
}

static void write_disk(Run *run)
{
    g_free(vm_hmp(run->source, "qemu-io disk \"write -P 8 4M 64k\""));
}

static void check_bitmap(Run *run)
{
    QDict *response = qtest_qmp(run->destination->qts, "{ 'execute': 'query-named-block-nodes',"
                                                       "  'arguments': { 'flat': true } }");
    QList *nodes = qdict_get_qlist(response, "return");
    const QListEntry *entry;
    bool seen = false;

    QLIST_FOREACH_ENTRY (nodes, entry) {
        QDict *node = qobject_to(QDict, qlist_entry_obj(entry));
        QList *bitmaps = qdict_get_qlist(node, "dirty-bitmaps");

        if (g_str_equal(qdict_get_str(node, "node-name"), "disk")) {
            QDict *bitmap;

            g_assert_nonnull(bitmaps);
            bitmap = qobject_to(QDict, qlist_peek(bitmaps));
            g_assert_cmpstr(qdict_get_str(bitmap, "name"), ==, "backup");
            g_assert_cmpint(qdict_get_int(bitmap, "count"), ==, (192 + 64) << 10);
            seen = true;
        }
    }
    g_assert_true(seen);
    qobject_unref(response);
}

/* A snapshot is saved and loaded as always, before a migration. */
static void use_snapshots(Run *run)
{
    Memory *then = memory_new(run->memory->size);
    g_autofree char *saved = vm_hmp(run->source, "savevm first");
    g_autofree char *loaded = NULL;

    g_assert_cmpstr(saved, ==, "");
    memcpy(then->bytes, run->memory->bytes, then->size);
    memory_scribble(run->memory, run->source, 2 * MIB);
    g_assert_cmpuint(memory_count_differences(then, run->source), >, 0);
    loaded = vm_hmp(run->source, "loadvm first");
    g_assert_cmpstr(loaded, ==, "");
    memory_check(then, run->source);
    memcpy(run->memory->bytes, then->bytes, then->size);
    memory_free(then);
}

/* --- vCPUs ----------------------------------------------------------------------------------- */

/* The guest has got round its pages a few times. */
static void wait_guest(Run *run)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    while (qtest_readw(run->source->qts, 0x5f008) < 3) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(1000);
    }
}

static void expect_guest_goes_on(Run *run)
{
    uint16_t before = qtest_readw(run->destination->qts, 0x5f008);
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;

    vm_do(run->destination, "cont", NULL);
    while (qtest_readw(run->destination->qts, 0x5f008) == before) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(1000);
    }
}

/* It writes faster than it is let through: it must be held back. */
/* Waits until the guest is slowed down more than that; returns by how many percent it is. */
static int64_t wait_throttled(Run *run, int64_t percent)
{
    gint64 deadline = g_get_monotonic_time() + VM_PATIENCE_S * G_USEC_PER_SEC;
    int64_t now = 0;

    while (now <= percent) {
        QDict *info = vm_command(run->source, "query-migrate", NULL);

        g_assert_cmpstr(qdict_get_str(info, "status"), ==, "active");
        now = qdict_get_try_int(info, "cpu-throttle-percentage", 0);
        qobject_unref(info);
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_usleep(10 * 1000);
    }
    return now;
}

static void wait_throttle(Run *run)
{
    vm_set_bandwidth(run->source, 8 * MIB);
    vm_wait_ferry_phase(run->source, "rounds");
    /* While 64 pages are sent, the guest writes all of them anew. */
    vm_set_bandwidth(run->source, MIB);
    wait_throttled(run, 0);
}

/* A round has begun of which more than this remains. */
static void wait_remaining(Run *run, int64_t nr_bytes)
{
    int64_t remaining = 0;

    while (remaining < nr_bytes) {
        QDict *info = vm_command(run->source, "query-ferry", NULL);

        g_assert_cmpstr(qdict_get_str(info, "phase"), ==, "rounds");
        remaining = qdict_get_int(info, "remaining");
        qobject_unref(info);
        g_usleep(10 * 1000);
    }
}

/* In a round that takes minutes, the guest is slowed down more and more all the same. */
static void wait_throttle_in_round(Run *run)
{
    wait_throttle(run);
    for (uint64_t page = 0; page < 2048; page++) {
        qtest_writeq(run->source->qts, 16 * MIB + page * 4096, page + 1);
    }
    wait_remaining(run, 6 * MIB);
    vm_set_bandwidth(run->source, 64 << 10);
    wait_throttled(run, wait_throttled(run, 0));
}

/* Firmware writes to the last pages of RAM blocks of all sizes, in the middle of the migration. */
static void boot_firmware(Run *run)
{
    /* The first pass is held meanwhile.  Firmware that is done writes nothing, and rounds would end at once. */
    for (unsigned i = 0; i < 4; i++) {
        vm_do(run->source, "system_reset", NULL);
        g_usleep(G_USEC_PER_SEC * 3 / 4);
    }
    vm_do(run->source, "system_reset", NULL);
}

/* --- Free page hints --------------------------------------------------------------------------- */

#define BALLOON                  \
    "-object iothread,id=hints " \
    "-device virtio-balloon-pci,addr=5,free-page-hint=on,iothread=hints"

/* Where a guest without firmware puts its registers, as virtio 0.9 has them. */
#define BALLOON_PORT     0xc000
#define BALLOON_FEATURES (BALLOON_PORT + 4)
#define BALLOON_STATUS   (BALLOON_PORT + 18)
#define BALLOON_CONFIG   (BALLOON_PORT + 20)

#define FREE_PAGE_HINT (1U << 3)

/* What the device says of hints: an ID of 2 or more asks for them. */
enum {
    HINTS_STOP,
    HINTS_DONE
};

static uint32_t get_hint_id(Vm *vm)
{
    return qtest_inl(vm->qts, BALLOON_CONFIG + 8);
}

/* As a driver does that can hint. */
static void drive_balloon(Run *run)
{
    QTestState *qts = run->source->qts;

    vm_write_pci(run->source, 5, 0x10, BALLOON_PORT);
    vm_write_pci(run->source, 5, 0x04, 5);
    qtest_outb(qts, BALLOON_STATUS, 3);
    qtest_outl(qts, BALLOON_FEATURES, FREE_PAGE_HINT);
    qtest_outb(qts, BALLOON_STATUS, 7);
    g_assert_cmpuint(get_hint_id(run->source), ==, HINTS_STOP);
}

static void expect_hints_wanted(Run *run)
{
    g_assert_cmpuint(get_hint_id(run->source), >=, 2);
}

/* Else the guest never gets back what it has given. */
static void expect_hints_done(Run *run)
{
    g_assert_cmpuint(get_hint_id(run->destination), ==, HINTS_DONE);
}

static bool is_armed_for_hints(Vm *vm)
{
    g_autofree char *log = vm_log(vm);

    return strstr(log, "ferry_hints_expected") != NULL;
}

static void expect_armed(Run *run)
{
    expect_hints_done(run);
    g_assert_true(is_armed_for_hints(run->source));
}

/* QEMU asks for none where post-copy is possible: arming all memory ahead would cost the guest for nothing. */
static void expect_no_hints(Run *run)
{
    g_assert_cmpuint(get_hint_id(run->source), ==, HINTS_STOP);
    g_assert_false(is_armed_for_hints(run->source));
}

/* --- Yank ------------------------------------------------------------------------------------ */

static void yank(Run *run)
{
    vm_do(run->source, "yank", "{ 'instances': [ { 'type': 'migration' } ] }");
}

#define RAM_BACKEND(driver) "-object " driver ",id=ram,size=32M"

/* --- One page, as fast as it can ------------------------------------------------------------------ */

#define HARVEST_S 4

static void make_one_page_firmware(Run *run)
{
    static const uint8_t code[] = {
        0xfa,                   /* cli */
        0xb8, 0x00, 0x30,       /* mov $0x3000, %ax */
        0x8e, 0xd8,             /* mov %ax, %ds */
        0xff, 0x06, 0x08, 0x00, /* again: incw 8 */
        0xeb, 0xfa,             /* jmp again */
    };

    make_firmware("{dir}/one.bin", code, sizeof(code));
}

/* A harvest that loses the page leaves it lost: all that writes it is let by.  A round without it is the last. */
static void harvest_often(Run *run)
{
    gint64 end_us = g_get_monotonic_time() + HARVEST_S * G_USEC_PER_SEC;
    QDict *info;

    vm_set_bandwidth(run->source, 0);
    while (g_get_monotonic_time() < end_us) {
        g_autofree char *status = vm_migration_status(run->source);

        if (!g_str_equal(status, "active")) {
            break;
        }
        g_usleep(20 * 1000);
    }
    info = vm_command(run->source, "query-migrate", NULL);
    g_printerr("%" PRId64 " rounds\n",
               qdict_get_int(qdict_get_qdict(info, "ram"), "dirty-sync-count"));
    qobject_unref(info);
}

static const Case cases[] = {
    {
        .name = "memory/memfd-shared",
        .ram = RAM_BACKEND("memory-backend-memfd,share=on"),
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "memory/memfd-private",
        .ram = RAM_BACKEND("memory-backend-memfd,share=off"),
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "memory/file-shared",
        .ram = RAM_BACKEND("memory-backend-file,share=on,mem-path={dir}/{vm}.ram"),
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "memory/file-private",
        .ram = RAM_BACKEND("memory-backend-file,share=off,mem-path={dir}/{vm}.ram"),
    },
    {
        .name = "memory/anonymous-shared",
        .ram = RAM_BACKEND("memory-backend-ram,share=on"),
    },
    {
        .name = "memory/preallocated",
        .ram = RAM_BACKEND("memory-backend-ram,prealloc=on"),
    },
    {
        .name = "memory/locked",
        .options = "-overcommit mem-lock=on",
    },
    {
        .name = "memory/dimm",
        .options = "-m 32M,slots=2,maxmem=1G -object memory-backend-ram,id=dimm,size=32M "
                   "-device pc-dimm,memdev=dimm,addr=4294967296",
        .before = write_above_4g,
        .after = check_above_4g,
    },
    {
        .name = "memory/ignore-shared",
        .ram = RAM_BACKEND("memory-backend-file,share=on,mem-path={dir}/ram"),
        .capabilities = "x-ignore-shared",
        .hold = HOLD_NOT,
        .after = expect_hardly_anything,
    },
    {
        .name = "memory/virtio-mem-unplugged",
        .options = "-m 32M,maxmem=1G -object memory-backend-ram,id=more,size=256M "
                   "-device virtio-mem-pci,memdev=more,requested-size=0",
        .after = expect_unplugged_skipped,
    },
    {
        .name = "devices/many",
        .options = "-device VGA -device virtio-net-pci -device virtio-rng-pci "
                   "-device virtio-balloon-pci -device nec-usb-xhci -device usb-kbd -device e1000",
        .hold = HOLD_ROUNDS,
    },
    {
        .name = "devices/dirty-bitmap",
        .cannot = no_qemu_img,
        .prepare = make_disks,
        .options = DISK,
        .capabilities = "dirty-bitmaps",
        .before = start_bitmap,
        .during = write_disk,
        .after = check_bitmap,
    },
    {
        .name = "devices/dirty-bitmap-postcopy",
        .cannot = no_qemu_img,
        .prepare = make_disks,
        .options = DISK,
        .capabilities = "dirty-bitmaps",
        .before = start_fine_bitmap,
        .during = begin_postcopy,
        .after = check_bitmap,
    },
    {
        .name = "devices/snapshot",
        .cannot = no_qemu_img,
        .prepare = make_disks,
        .options = DISK,
        .before = use_snapshots,
    },
    {
        .name = "guest/tcg",
        .prepare = make_writing_firmware,
        .options = "-accel tcg -bios {dir}/write.bin",
        .destination_paused = true,
        .guest_writes = true,
        .before = wait_guest,
        .after = expect_guest_goes_on,
    },
    {
        .name = "guest/tcg-one-page",
        .prepare = make_one_page_firmware,
        .options = "-accel tcg -bios {dir}/one.bin",
        .destination_paused = true,
        .guest_writes = true,
        .during = harvest_often,
    },
    {
        .name = "guest/kvm",
        .cannot = no_kvm,
        .prepare = make_writing_firmware,
        .options = "-accel kvm -bios {dir}/write.bin",
        .destination_paused = true,
        .guest_writes = true,
        .before = wait_guest,
        .after = expect_guest_goes_on,
    },
    {
        .name = "guest/kvm-pagemap",
        .cannot = no_kvm,
        .prepare = make_writing_firmware,
        .options = "-accel kvm -bios {dir}/write.bin",
        .destination_paused = true,
        .ferry_parameters = "{ 'tracker': 'pagemap' }",
        .guest_writes = true,
        .before = wait_guest,
        .tracker = "pagemap",
        .tracker_reason = "ferry.tracker says so",
        .after = expect_guest_goes_on,
    },
    {
        .name = "guest/kvm-bitmap",
        .cannot = no_kvm,
        .prepare = make_writing_firmware,
        .options = "-accel kvm -bios {dir}/write.bin",
        .destination_paused = true,
        .ferry_parameters = "{ 'tracker': 'bitmap' }",
        .guest_writes = true,
        .before = wait_guest,
        .tracker = "bitmap",
        .tracker_reason = "ferry.tracker says so",
        .after = expect_guest_goes_on,
    },
    {
        .name = "guest/kvm-rings-off",
        .cannot = no_kvm,
        .prepare = make_writing_firmware,
        .options = "-accel kvm,dirty-ring-size=0 -bios {dir}/write.bin",
        .destination_paused = true,
        .guest_writes = true,
        .before = wait_guest,
        .tracker = "bitmap",
        .tracker_reason = "dirty-ring-size=0",
        .after = expect_guest_goes_on,
    },
    {
        .name = "guest/auto-converge",
        .prepare = make_writing_firmware,
        .options = "-accel tcg -bios {dir}/write.bin",
        .capabilities = "auto-converge",
        .destination_paused = true,
        .guest_writes = true,
        .before = wait_guest,
        .during = wait_throttle,
        .after = expect_guest_goes_on,
    },
    {
        .name = "guest/auto-converge-in-round",
        .prepare = make_writing_firmware,
        .options = "-accel tcg -bios {dir}/write.bin",
        .capabilities = "auto-converge",
        .destination_paused = true,
        .guest_writes = true,
        .before = wait_guest,
        .during = wait_throttle_in_round,
        .after = expect_guest_goes_on,
    },
    {
        .name = "guest/tcg-firmware",
        .options = "-accel tcg",
        .destination_paused = true,
        .guest_writes = true,
        .during = boot_firmware,
    },
    {
        /* Memory slots come and go while the firmware makes its copy writable, and other CPUs run. */
        .name = "guest/kvm-firmware",
        .cannot = no_kvm,
        .options = "-accel kvm -smp 2",
        .destination_paused = true,
        .guest_writes = true,
        .during = boot_firmware,
    },
    {
        .name = "balloon/copy",
        .options = BALLOON " -trace ferry_hints_expected",
        .before = drive_balloon,
        .during = expect_hints_wanted,
        .after = expect_armed,
    },
    {
        .name = "balloon/postcopy-possible",
        .options = BALLOON " -trace ferry_hints_expected",
        .capabilities = "postcopy-ram",
        .before = drive_balloon,
        .during = expect_no_hints,
    },
    {
        .name = "balloon/rounds",
        .options = BALLOON,
        .before = drive_balloon,
        .hold = HOLD_ROUNDS,
        .during = expect_hints_wanted,
        .after = expect_hints_done,
    },
    {
        .name = "balloon/paused",
        .options = BALLOON,
        .paused = true,
        .before = drive_balloon,
        .after = expect_hints_done,
    },
    {
        .name = "yank/copy",
        .during = yank,
        .outcome = FAILS,
        .error = "lost the connection to the destination",
    },
    {
        .name = "yank/rounds",
        .hold = HOLD_ROUNDS,
        .during = yank,
        .outcome = FAILS,
        .error = "lost the connection to the destination",
    },
};

void add_device_cases(void)
{
    cases_add(cases, G_N_ELEMENTS(cases));
}
