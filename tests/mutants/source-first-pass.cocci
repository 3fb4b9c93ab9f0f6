// SPDX-License-Identifier: GPL-2.0-or-later

// restart-as-before: what became zero before a tracker was replaced is not sent
//    file: migration/source/first-pass.c
//    tests: first-pass
//    sample: yes
@@
@@
- pass->restarted = true;

// armed-late: a chunk is armed after it was looked at
//    file: migration/source/first-pass.c
//    tests: first-pass
@@
identifier ok;
expression a, b;
@@
- bool ok = (ferry_first_pass_is_late(pass) || a) && b;
+ bool ok = b && (ferry_first_pass_is_late(pass) || a);

// idle-forgotten: what is left of a run of untouched chunks is not looked at again
//    file: migration/source/first-pass.c
//    tests: first-pass migrate:/migrate/idle-chunks
@@
@@
- split_run(pass, run, touched);

// hint-before-asked: hints are believed of chunks that were armed after they were asked for
//    file: migration/source/first-pass-hints.c
//    tests: hints
@@
@@
- if (!pass->hintable[region][number]) {
-     return;
- }

// hint-over-edge: hints are believed of a chunk because they are of the one before it
//    file: migration/source/first-pass-hints.c
//    tests: hints:/hints/over-edge
@@
expression chunk_end;
@@
- next = MIN(end, chunk_end);
+ next = end;

// hint-when-stopped: pages are left out when the vCPUs have stopped
//    file: migration/source/first-pass-hints.c
//    tests: hints:/hints/stopped
@@
expression page, end;
@@
- page < end && !ferry_first_pass_is_late(pass)
+ page < end

// hint-at-last: a hint waits that came just before the lock was let go of
//    file: migration/source/first-pass-hints.c
//    tests: first-pass:/first-pass/hint-at-last
@@
@@
- !ferry_hint_queue_is_empty(pass->hints)
+ false

// hints-for-ever: more and more hints wait
//    file: migration/source/hint-queue.c
//    tests: first-pass:/first-pass/hints-waiting
@@
@@
- queue->hints->len < HINTS_MAX
+ true

// hint-before-arming: hints that are older than the arming are believed
//    file: migration/source/first-pass.c
//    tests: hints:/hints/older-than-arming
@@
@@
  ferry_first_pass_expect_hints(...)
  {
  <...
- ferry_hint_queue_forget(pass->hints);
  ...>
  }

// hint-unarmed: hints are believed of chunks that are not armed
//    file: migration/source/first-pass.c
//    tests: hints
@@
@@
- ferry_backlog_is_armed(pass->backlog, at.region, at.number)
+ true

// hint-one-arming: all memory is armed for hints in one go
//    file: migration/source/first-pass.c
//    tests: hints:/hints/cancel
@@
@@
- i < EXPECT_CHUNKS
+ true
