// SPDX-License-Identifier: GPL-2.0-or-later
// file: migration/dirtyrate.c
// hooks: qmp_calc_dirty_rate
// why: measuring dirty rates with the bitmap is refused to those who asked for dirty rings, not to
//      those who have them by default.

@@
expression mode;
@@
 qmp_calc_dirty_rate(...)
 {
 <...
 (mode == DIRTY_RATE_MEASURE_MODE_DIRTY_BITMAP) &&
- kvm_dirty_ring_enabled()
+ ferry_kvm_rings_were_asked_for()
 ...>
 }
