/*
 * A tiny virtual machine straight on /dev/kvm, with dirty rings and no QEMU.
 *
 * Its vCPUs are put into 64-bit long mode directly, at ring 3 or at ring 0, with memory mapped one
 * to one.  Each runs one small program at a time, on a thread of its own: write to pages of a list,
 * or sweep over a range.  What is written is never written twice, so that a page which was written
 * differs from any earlier copy of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_RAW_VM_H
#define FERRY_RAW_VM_H

#include <glib.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define RAW_PAGE      4096
#define RAW_VCPUS_MAX 4
#define RAW_LIST_MAX  (UINT32_C(1) << 20)
#define RAW_SPACE_GIB 16 /* so much guest-physical memory is mapped; the first GiB is taken */

typedef struct RawVm RawVm;

typedef enum RawMode {
    RAW_NATIVE,   /* ring 3 */
    RAW_EMULATED, /* ring 0: on a KVM without hardware support, one instruction at a time */
} RawMode;

typedef enum RawKind {
    RAW_SMALL, /* anonymous, 4 KiB pages */
    RAW_HUGE,  /* anonymous, transparent huge pages */
    RAW_MEMFD,
} RawKind;

/* What a vCPU is to do. */
typedef struct RawJob {
    uint32_t first, nr; /* Required: this part of the list of pages */
    uint64_t nr_writes; /* Optional: end after so many; 0: not before it is stopped */
    uint64_t seed;      /* Optional: write at random; 0: in the order of the list */
    uint64_t sweep_gpa; /* Optional: instead of a list, @nr pages (times 8) from here on, once */
    uint64_t burst_gpa; /* Optional: the same, but @nr words of 8 bytes by one string instruction */
} RawJob;

/* What a vCPU did since it was created. */
typedef struct RawCounts {
    uint64_t nr_exits; /* times KVM_RUN returned, but for the end of a job */
    uint64_t nr_full;  /* those of them because of a full ring */
    uint64_t nr_mmio;  /* those of them because there was no memory */
    uint64_t cpu_ns;   /* time that it ran, in the guest or for it */
} RawCounts;

/* Called on a vCPU's thread when its ring is full. */
typedef void RawFullFn(void *opaque, unsigned vcpu);

/* Why no such machine can be made here, or NULL; to be freed. */
char *raw_vm_why_not(void);

/* A machine with rings of @nr_entries each, and no vCPU. */
RawVm *raw_vm_new(uint32_t nr_entries, RawFullFn *full, void *opaque);
void raw_vm_free(RawVm *vm);
int raw_vm_fd(const RawVm *vm);

/* Memory for a slot, all of it touched; freed by raw_memory_free(). */
uint8_t *raw_memory_new(RawKind kind, uint64_t nr_pages);
void raw_memory_free(uint8_t *host, uint64_t nr_pages);

/* KVM_SET_USER_MEMORY_REGION; @nr_pages 0 removes the slot. Slot 0 is the machine's own. */
void raw_vm_set_slot(RawVm *vm, uint32_t slot, uint64_t gpa, uint8_t *host, uint64_t nr_pages,
                     bool log);

/* The list of pages to write to, as page frame numbers; may change while vCPUs run. */
uint32_t *raw_vm_list(RawVm *vm);

/* Returns the index of the new vCPU. */
unsigned raw_vm_add_vcpu(RawVm *vm, RawMode mode);
struct kvm_dirty_gfn *raw_vm_ring(const RawVm *vm, unsigned vcpu);

/* Begin a job; ask for its end; wait for its end. */
void raw_vm_begin(RawVm *vm, unsigned vcpu, const RawJob *job);
void raw_vm_end(RawVm *vm, unsigned vcpu);
void raw_vm_wait(RawVm *vm, unsigned vcpu);

/* Begin a job and wait for its end. */
void raw_vm_run(RawVm *vm, unsigned vcpu, const RawJob *job);

/* Whether the job that was begun has come to its end. */
bool raw_vm_is_over(const RawVm *vm, unsigned vcpu);

/* How often the vCPU wrote to a page in its present or last job. */
uint64_t raw_vm_nr_writes(const RawVm *vm, unsigned vcpu);

/* To be called when the vCPU has no job. */
RawCounts raw_vm_counts(const RawVm *vm, unsigned vcpu);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(RawVm, raw_vm_free)

#endif
