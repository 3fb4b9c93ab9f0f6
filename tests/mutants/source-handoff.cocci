// SPDX-License-Identifier: GPL-2.0-or-later

// closed-unseen: nobody looks whether the destination has closed a channel while it is to say what is missing
//    file: migration/source/handoff.c
//    tests: turns-source:/turns-source/closed-resume
@@
@@
- ferry_source_lost_channel(source)
+ false

// pause-at-once: threads of the connection that broke may still tell of it in the pause
//    file: migration/source/handoff.c
//    tests: turns-source:/turns-source/paused-at-last
@@
@@
  ferry_source_pause(...)
  {
  <...
- ferry_source_hang_up(source);
+ ferry_source_shutdown(source);
  ...>
  }

// last-word-unsaid: where all was sent, the source does not say that the destination may have all
//    file: migration/source/source.c
//    tests: turns-source:/turns-source/last-word-lost
@@
expression cause;
@@
- cause && waits_for_last_word(source)
+ false
