/*
 * What QEMU's accel/kvm/kvm-all.c calls, and what the glue calls in it.
 *
 * The code is in kvm-all.c.inc, which the graft puts at the end of that file: memory slots and
 * their lock are private to it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_GLUE_KVM_H
#define FERRY_GLUE_KVM_H

#include "qemu/typedefs.h"
#include "exec/hwaddr.h"

#include "ferry/accel/kvm-ring.h"
#include "ferry/migration/memory/region.h"

struct KVMMemoryListener;
struct KVMState;

/* --- From QEMU ------------------------------------------------------------------------------- */

/* The VM exists; the dirty ring, if any, is about to be enabled, and there are no slots yet. */
void ferry_kvm_init(struct KVMState *s);

/* How long the slot of @mr is that begins at @start_addr, with @size bytes to go. */
hwaddr ferry_kvm_slot_size(MemoryRegion *mr, hwaddr start_addr, hwaddr size);

/* The same, where only the slots know whose memory it is: @size, if none of them begins there. */
hwaddr ferry_kvm_found_slot_size(const struct KVMMemoryListener *kml, hwaddr start_addr,
                                 hwaddr size);

/* @kml is complete, and about to be registered. */
void ferry_kvm_wrap_listener(struct KVMMemoryListener *kml);

/* The vCPU's ring is mapped; or the vCPU, which does not run, is about to be destroyed. */
void ferry_kvm_vcpu_new(CPUState *cpu);
void ferry_kvm_vcpu_gone(CPUState *cpu);

/* The vCPU's ring is full.  True if that has been dealt with.  vCPU thread, no BQL. */
bool ferry_kvm_ring_is_full(CPUState *cpu);

/*
 * Reap the rings in QEMU's stead: of one vCPU, or of all (NULL).  Returns how many entries that were.
 * With the slots lock.
 */
bool ferry_kvm_reaps_rings(void);
uint64_t ferry_kvm_reap_rings(struct KVMState *s, CPUState *cpu);

/* --- From the glue --------------------------------------------------------------------------- */

/* The size of the dirty rings; 0 without them. */
uint32_t ferry_kvm_ring_size(void);

/* Whether there are none because the user said dirty-ring-size=0. */
bool ferry_kvm_rings_are_unwanted(void);

/*
 * Look after the rings instead of QEMU, until they are returned: the tracker over them, whose
 * regions are @regions with RAM blocks @blocks.  Both must stay until then.  Any thread.
 */
FerryKvmRing *ferry_kvm_take_rings(const FerryRegions *regions, RAMBlock *const *blocks);
void ferry_kvm_return_rings(void);

/* Have all dirty logs but KVM's own written to QEMU's bitmap (vhost, VFIO).  With the BQL. */
void ferry_kvm_sync_others(bool last_stage);

/*
 * Have KVM's dirty log, where that is no ring, written to QEMU's bitmap.  Takes a moment for each slot
 * that is logged; any thread, without the BQL.
 */
void ferry_kvm_sync_log(void);

/*
 * While it is on, QEMU's dirty logging for migration does not reach KVM; ferry_kvm_arm() switches
 * it on slot by slot, if at all.  Switching this off brings KVM into line with what QEMU wants,
 * slot by slot and in the background.  Any thread.
 */
void ferry_kvm_defer_logging(bool defer);

/* Switch on the logging of all slots that hold any of these bytes of @block.  0 or -errno. */
int ferry_kvm_arm(RAMBlock *block, uint64_t offset, uint64_t nr_bytes);

/* While logging is deferred: switch off what was armed, in the background.  Any thread. */
void ferry_kvm_disarm(void);

#endif
