/*
 * For a QEMU without KVM: nothing of this is called.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "exec/memory.h"

#include "ferry/glue/ferry.h"
#include "ferry/glue/kvm/kvm.h"

uint32_t ferry_kvm_ring_size(void)
{
    return 0;
}

bool ferry_kvm_rings_were_asked_for(void)
{
    return false;
}

bool ferry_kvm_rings_are_unwanted(void)
{
    return false;
}

FerryKvmRing *ferry_kvm_take_rings(const FerryRegions *regions, RAMBlock *const *blocks)
{
    g_assert_not_reached();
}

void ferry_kvm_return_rings(void)
{
}

void ferry_kvm_sync_others(bool last_stage)
{
    memory_global_dirty_log_sync(last_stage);
}

void ferry_kvm_sync_log(void)
{
}

void ferry_kvm_defer_logging(bool defer)
{
}

int ferry_kvm_arm(RAMBlock *block, uint64_t offset, uint64_t nr_bytes)
{
    return 0;
}

void ferry_kvm_disarm(void)
{
}
