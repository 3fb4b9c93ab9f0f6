/*
 * A tiny virtual machine straight on /dev/kvm: see raw-vm.h.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "raw-vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define GIB        (UINT64_C(1) << 30)
#define HUGE_BYTES (UINT64_C(2) << 20)

/* The machine's own memory, slot 0, never logged. */
#define TABLES_GPA   0x2000 /* PML4, PDPT, one directory for each GiB */
#define PROGRAM_GPA  0x20000
#define CONTROLS_GPA 0x30000 /* a page for each vCPU */
#define LIST_GPA     0x100000
#define SYSTEM_BYTES (LIST_GPA + RAW_LIST_MAX * sizeof(uint32_t))

/* Present, writable, for ring 3 too, accessed; leaves also dirty and 2 MiB: nothing is set later. */
#define ENTRY_TABLE 0x27
#define ENTRY_LEAF  0xe7

#define END_PORT 0x80

/* Between the host and a vCPU's program, which is given its address. */
typedef struct Control {
    uint64_t stop;
    uint64_t nr_writes;
    uint64_t max_writes;
    uint64_t random; /* state of the generator; 0: in order */
    uint64_t nr;     /* pages in the list, groups of 8 pages of a sweep, or words of a burst */
    uint64_t from;   /* the list, or where a sweep or burst begins */
    uint64_t value;  /* what was written last */
} Control;

_Static_assert(offsetof(Control, nr_writes) == 8, "known to the programs");
_Static_assert(offsetof(Control, max_writes) == 16, "known to the programs");
_Static_assert(offsetof(Control, random) == 24, "known to the programs");
_Static_assert(offsetof(Control, nr) == 32, "known to the programs");
_Static_assert(offsetof(Control, from) == 40, "known to the programs");
_Static_assert(offsetof(Control, value) == 48, "known to the programs");

extern const uint8_t raw_program[], raw_program_sweep[], raw_program_burst[], raw_program_end[];

/* Copied into the guest; only what KVM's emulator knows as well. */
__asm__(".pushsection .rodata\n"
        "raw_program:\n"
        "    mov     24(%rdi), %r8\n" /* r8: random, r9: index, r10: nr, r11: list */
        "    mov     32(%rdi), %r10\n"
        "    mov     40(%rdi), %r11\n"
        "    mov     48(%rdi), %rax\n"
        "    xor     %ecx, %ecx\n"
        "    mov     $-1, %r9\n"
        "1:  cmpq    $0, (%rdi)\n"
        "    jne     9f\n"
        "    cmp     16(%rdi), %rcx\n"
        "    jae     9f\n"
        "    test    %r8, %r8\n"
        "    jz      2f\n"
        "    mov     %r8, %rdx\n" /* xorshift */
        "    shl     $13, %rdx\n"
        "    xor     %rdx, %r8\n"
        "    mov     %r8, %rdx\n"
        "    shr     $7, %rdx\n"
        "    xor     %rdx, %r8\n"
        "    mov     %r8, %rdx\n"
        "    shl     $17, %rdx\n"
        "    xor     %rdx, %r8\n"
        "    mov     %r8d, %r9d\n"
        "    imul    %r10, %r9\n"
        "    shr     $32, %r9\n"
        "    jmp     3f\n"
        "2:  inc     %r9\n"
        "    cmp     %r10, %r9\n"
        "    jb      3f\n"
        "    xor     %r9d, %r9d\n"
        "3:  mov     (%r11,%r9,4), %edx\n"
        "    shl     $12, %rdx\n"
        "    inc     %rax\n"
        "    mov     %eax, %esi\n" /* go round in the page as well */
        "    and     $511, %esi\n"
        "    mov     %rax, (%rdx,%rsi,8)\n"
        "    inc     %rcx\n"
        "    mov     %rcx, 8(%rdi)\n"
        "    jmp     1b\n"
        "9:  mov     %rax, 48(%rdi)\n"
        "    out     %al, $0x80\n"
        "    hlt\n"
        "raw_program_sweep:\n"
        "    mov     32(%rdi), %rcx\n"
        "    mov     40(%rdi), %rdx\n"
        "    mov     48(%rdi), %rax\n"
        "    inc     %rax\n"
        "    mov     %rax, 48(%rdi)\n"
        "1:  mov     %rax, (%rdx)\n"
        "    mov     %rax, 0x1000(%rdx)\n"
        "    mov     %rax, 0x2000(%rdx)\n"
        "    mov     %rax, 0x3000(%rdx)\n"
        "    mov     %rax, 0x4000(%rdx)\n"
        "    mov     %rax, 0x5000(%rdx)\n"
        "    mov     %rax, 0x6000(%rdx)\n"
        "    mov     %rax, 0x7000(%rdx)\n"
        "    add     $0x8000, %rdx\n"
        "    addq    $8, 8(%rdi)\n"
        "    cmpq    $0, (%rdi)\n"
        "    jne     9f\n"
        "    dec     %rcx\n"
        "    jnz     1b\n"
        "9:  out     %al, $0x80\n"
        "    hlt\n"
        "raw_program_burst:\n"
        "    mov     48(%rdi), %rax\n"
        "    inc     %rax\n"
        "    mov     %rax, 48(%rdi)\n"
        "    mov     32(%rdi), %rcx\n"
        "    mov     40(%rdi), %rdi\n"
        "    rep stosq\n"
        "    out     %al, $0x80\n"
        "    hlt\n"
        "raw_program_end:\n"
        ".popsection\n");

typedef struct RawVcpu {
    RawVm *vm;
    unsigned index;
    RawMode mode;
    int fd;
    struct kvm_run *run;
    struct kvm_dirty_gfn *ring;
    Control *control; /* in the guest's memory */
    GThread *thread;  /* of the job */
    RawCounts counts;
    bool over; /* atomic */
} RawVcpu;

struct RawVm {
    int kvm_fd, fd;
    size_t run_bytes, ring_bytes;
    uint8_t *system;
    RawFullFn *full;
    void *opaque;
    RawVcpu vcpus[RAW_VCPUS_MAX];
    unsigned nr_vcpus;
};

static int check_ioctl(int fd, unsigned long request, const char *name, void *argument)
{
    int result = ioctl(fd, request, argument);

    if (result < 0) {
        g_error("%s: %s", name, g_strerror(errno));
    }
    return result;
}

#define CHECK_IOCTL(fd, request, argument) \
    check_ioctl(fd, request, #request, (void *)(uintptr_t)(argument))

static uint32_t ring_cap(int kvm_fd)
{
    static const uint32_t caps[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING};

    for (guint i = 0; i < G_N_ELEMENTS(caps); i++) {
        if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, caps[i]) > 0) {
            return caps[i];
        }
    }
    return 0;
}

char *raw_vm_why_not(void)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    char *why = NULL;

    if (fd < 0) {
        return g_strdup_printf("/dev/kvm: %s", g_strerror(errno));
    }
    if (!ring_cap(fd)) {
        why = g_strdup("KVM has no dirty rings here");
    }
    close(fd);
    return why;
}

/* --- Memory ---------------------------------------------------------------------------------- */

uint8_t *raw_memory_new(RawKind kind, uint64_t nr_pages)
{
    size_t nr_bytes = nr_pages * RAW_PAGE;
    uint8_t *at, *host;
    int fd = -1;

    /* Aligned, so that huge pages of the host can be huge pages of the guest. */
    at = mmap(NULL, nr_bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(at != MAP_FAILED);
    host = at + (-(uintptr_t)at & (HUGE_BYTES - 1));
    if (host > at) {
        munmap(at, (size_t)(host - at));
    }
    munmap(host + nr_bytes, (size_t)(at + HUGE_BYTES - host));

    if (kind == RAW_MEMFD) {
        fd = memfd_create("ferry-test", MFD_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(ftruncate(fd, (off_t)nr_bytes), ==, 0);
    }
    at = mmap(host, nr_bytes, PROT_READ | PROT_WRITE,
              MAP_FIXED | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED), fd, 0);
    g_assert_true(at == host);
    if (fd >= 0) {
        close(fd);
    } else {
        /* A kernel without transparent huge pages refuses; then all pages are small. */
        madvise(host, nr_bytes, kind == RAW_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    memset(host, 0xa5, nr_bytes);
    return host;
}

void raw_memory_free(uint8_t *host, uint64_t nr_pages)
{
    munmap(host, nr_pages * RAW_PAGE);
}

void raw_vm_set_slot(RawVm *vm, uint32_t slot, uint64_t gpa, uint8_t *host, uint64_t nr_pages,
                     bool log)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
        .guest_phys_addr = gpa,
        .memory_size = nr_pages * RAW_PAGE,
        .userspace_addr = (uintptr_t)host,
    };

    g_assert_cmpuint(gpa + region.memory_size, <=, RAW_SPACE_GIB * GIB);
    CHECK_IOCTL(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* One to one, in pages of 2 MiB. */
static void fill_tables(RawVm *vm)
{
    uint64_t *pml4 = (uint64_t *)(void *)(vm->system + TABLES_GPA);
    uint64_t *pdpt = pml4 + 512;

    pml4[0] = (TABLES_GPA + 0x1000) | ENTRY_TABLE;
    for (uint64_t gib = 0; gib < RAW_SPACE_GIB; gib++) {
        uint64_t *directory = pdpt + 512 + gib * 512;

        pdpt[gib] = (TABLES_GPA + 0x2000 + gib * 0x1000) | ENTRY_TABLE;
        for (uint64_t i = 0; i < 512; i++) {
            directory[i] = (gib * GIB + i * HUGE_BYTES) | ENTRY_LEAF;
        }
    }
}

uint32_t *raw_vm_list(RawVm *vm)
{
    return (uint32_t *)(void *)(vm->system + LIST_GPA);
}

/* --- The machine ----------------------------------------------------------------------------- */

RawVm *raw_vm_new(uint32_t nr_entries, RawFullFn *full, void *opaque)
{
    RawVm *vm = g_new0(RawVm, 1);
    struct kvm_enable_cap cap = {0};

    vm->full = full;
    vm->opaque = opaque;
    vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    g_assert_cmpint(vm->kvm_fd, >=, 0);
    vm->fd = CHECK_IOCTL(vm->kvm_fd, KVM_CREATE_VM, 0);
    vm->run_bytes = (size_t)CHECK_IOCTL(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    vm->ring_bytes = nr_entries * sizeof(struct kvm_dirty_gfn);
    cap.cap = ring_cap(vm->kvm_fd);
    cap.args[0] = vm->ring_bytes;
    CHECK_IOCTL(vm->fd, KVM_ENABLE_CAP, &cap);

    vm->system = raw_memory_new(RAW_SMALL, SYSTEM_BYTES / RAW_PAGE);
    memset(vm->system, 0, SYSTEM_BYTES);
    fill_tables(vm);
    memcpy(vm->system + PROGRAM_GPA, raw_program,
           (uintptr_t)raw_program_end - (uintptr_t)raw_program);
    raw_vm_set_slot(vm, 0, 0, vm->system, SYSTEM_BYTES / RAW_PAGE, false);
    return vm;
}

void raw_vm_free(RawVm *vm)
{
    for (unsigned i = 0; i < vm->nr_vcpus; i++) {
        g_assert_null(vm->vcpus[i].thread);
        munmap(vm->vcpus[i].ring, vm->ring_bytes);
        munmap(vm->vcpus[i].run, vm->run_bytes);
        close(vm->vcpus[i].fd);
    }
    close(vm->fd);
    close(vm->kvm_fd);
    raw_memory_free(vm->system, SYSTEM_BYTES / RAW_PAGE);
    g_free(vm);
}

int raw_vm_fd(const RawVm *vm)
{
    return vm->fd;
}

/* --- vCPUs ----------------------------------------------------------------------------------- */

static void pass_cpuid_through(const RawVm *vm, const RawVcpu *vcpu)
{
    const unsigned nr_max = 256;
    g_autofree struct kvm_cpuid2 *cpuid =
        g_malloc0(sizeof(*cpuid) + nr_max * sizeof(cpuid->entries[0]));

    cpuid->nent = nr_max;
    CHECK_IOCTL(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
    CHECK_IOCTL(vcpu->fd, KVM_SET_CPUID2, cpuid);
}

static void enter_long_mode(const RawVcpu *vcpu)
{
    const uint8_t ring = vcpu->mode == RAW_NATIVE ? 3 : 0;
    const struct kvm_segment code = {
        .limit = UINT32_MAX,
        .selector = 0x28 | ring,
        .type = 0xb, /* executable, readable, accessed */
        .present = 1,
        .dpl = ring,
        .s = 1,
        .l = 1,
        .g = 1,
    };
    struct kvm_segment data = code;
    struct kvm_sregs sregs;

    data.selector = 0x20 | ring;
    data.type = 0x3; /* writable, accessed */
    data.l = 0;
    data.db = 1;
    CHECK_IOCTL(vcpu->fd, KVM_GET_SREGS, &sregs);
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 = 0x80000031; /* PG, NE, ET, PE */
    sregs.cr3 = TABLES_GPA;
    sregs.cr4 = 0x20;   /* PAE */
    sregs.efer = 0x500; /* LMA, LME */
    CHECK_IOCTL(vcpu->fd, KVM_SET_SREGS, &sregs);
}

unsigned raw_vm_add_vcpu(RawVm *vm, RawMode mode)
{
    unsigned index = vm->nr_vcpus++;
    RawVcpu *vcpu = &vm->vcpus[index];

    g_assert_cmpuint(index, <, RAW_VCPUS_MAX);
    vcpu->vm = vm;
    vcpu->index = index;
    vcpu->mode = mode;
    vcpu->control = (Control *)(void *)(vm->system + CONTROLS_GPA + index * RAW_PAGE);
    /* No two vCPUs write the same. */
    vcpu->control->value = (uint64_t)(index + 1) << 56;
    vcpu->fd = CHECK_IOCTL(vm->fd, KVM_CREATE_VCPU, index);
    vcpu->run = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    g_assert_true(vcpu->run != MAP_FAILED);
    vcpu->ring = mmap(NULL, vm->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd,
                      KVM_DIRTY_LOG_PAGE_OFFSET * RAW_PAGE);
    g_assert_true(vcpu->ring != MAP_FAILED);
    pass_cpuid_through(vm, vcpu);
    enter_long_mode(vcpu);
    return index;
}

struct kvm_dirty_gfn *raw_vm_ring(const RawVm *vm, unsigned vcpu)
{
    return vm->vcpus[vcpu].ring;
}

/* Have KVM finish the instruction that left the guest, so that registers can be set. */
static void finish_instruction(const RawVcpu *vcpu)
{
    vcpu->run->immediate_exit = 1;
    g_assert_cmpint(ioctl(vcpu->fd, KVM_RUN, 0), <, 0);
    g_assert_cmpint(errno, ==, EINTR);
    vcpu->run->immediate_exit = 0;
}

static bool is_stopped(const RawVcpu *vcpu)
{
    return __atomic_load_n(&vcpu->control->stop, __ATOMIC_RELAXED);
}

/* Takes care of why the vCPU left the guest; returns whether its job has ended. */
static bool handle_exit(RawVcpu *vcpu)
{
    struct kvm_regs regs = {0};

    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO:
        if (vcpu->run->io.port == END_PORT) {
            finish_instruction(vcpu);
            return true;
        }
        break;
    case KVM_EXIT_DIRTY_RING_FULL:
        vcpu->counts.nr_exits++;
        vcpu->counts.nr_full++;
        vcpu->vm->full(vcpu->vm->opaque, vcpu->index);
        /* A ring that stays full would keep it from the guest for ever. */
        return is_stopped(vcpu);
    case KVM_EXIT_MMIO:
        vcpu->counts.nr_exits++;
        vcpu->counts.nr_mmio++;
        return false;
    default:
        break;
    }
    ioctl(vcpu->fd, KVM_GET_REGS, &regs);
    g_error("vCPU %u left the guest for reason %u at %#llx", vcpu->index, vcpu->run->exit_reason,
            regs.rip);
}

static gpointer vcpu_run(gpointer opaque)
{
    RawVcpu *vcpu = opaque;
    struct timespec time;

    for (;;) {
        if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
            if (handle_exit(vcpu)) {
                clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
                vcpu->counts.cpu_ns +=
                    (uint64_t)time.tv_sec * UINT64_C(1000000000) + (uint64_t)time.tv_nsec;
                __atomic_store_n(&vcpu->over, true, __ATOMIC_RELAXED);
                return NULL;
            }
        } else if (errno == EINTR || errno == EAGAIN) {
            vcpu->counts.nr_exits++;
        } else {
            g_error("KVM_RUN of vCPU %u: %s", vcpu->index, g_strerror(errno));
        }
    }
}

void raw_vm_begin(RawVm *vm, unsigned index, const RawJob *job)
{
    RawVcpu *vcpu = &vm->vcpus[index];
    struct kvm_regs regs = {
        .rip = PROGRAM_GPA,
        .rdi = CONTROLS_GPA + index * RAW_PAGE,
        .rflags = 0x3002, /* I/O allowed at ring 3, interrupts off */
    };

    g_assert_null(vcpu->thread);
    __atomic_store_n(&vcpu->over, false, __ATOMIC_RELAXED);
    *vcpu->control = (Control){
        .max_writes = job->nr_writes ? job->nr_writes : UINT64_MAX,
        .random = job->seed,
        .nr = job->nr,
        .from = LIST_GPA + job->first * sizeof(uint32_t),
        .value = vcpu->control->value,
    };
    if (job->sweep_gpa) {
        g_assert_cmpuint(job->nr % 8, ==, 0);
        vcpu->control->nr = job->nr / 8;
        vcpu->control->from = job->sweep_gpa;
        regs.rip += (uintptr_t)raw_program_sweep - (uintptr_t)raw_program;
    } else if (job->burst_gpa) {
        vcpu->control->from = job->burst_gpa;
        regs.rip += (uintptr_t)raw_program_burst - (uintptr_t)raw_program;
    }
    CHECK_IOCTL(vcpu->fd, KVM_SET_REGS, &regs);
    vcpu->thread = g_thread_new("vcpu", vcpu_run, vcpu);
}

void raw_vm_end(RawVm *vm, unsigned vcpu)
{
    __atomic_store_n(&vm->vcpus[vcpu].control->stop, 1, __ATOMIC_RELAXED);
}

void raw_vm_wait(RawVm *vm, unsigned vcpu)
{
    g_thread_join(vm->vcpus[vcpu].thread);
    vm->vcpus[vcpu].thread = NULL;
}

void raw_vm_run(RawVm *vm, unsigned vcpu, const RawJob *job)
{
    raw_vm_begin(vm, vcpu, job);
    raw_vm_wait(vm, vcpu);
}

bool raw_vm_is_over(const RawVm *vm, unsigned vcpu)
{
    return __atomic_load_n(&vm->vcpus[vcpu].over, __ATOMIC_RELAXED);
}

uint64_t raw_vm_nr_writes(const RawVm *vm, unsigned vcpu)
{
    return __atomic_load_n(&vm->vcpus[vcpu].control->nr_writes, __ATOMIC_RELAXED);
}

RawCounts raw_vm_counts(const RawVm *vm, unsigned vcpu)
{
    g_assert_null(vm->vcpus[vcpu].thread);
    return vm->vcpus[vcpu].counts;
}
