// SPDX-License-Identifier: GPL-2.0-or-later

// storm-body: the body of a page is not looked at
//    file: hw/misc/storm-page.c
//    tests: storm
@@
expression a, b;
@@
- memcmp(a, b, BODY_BYTES)
+ 0

// storm-place: a page may hold another one
//    file: hw/misc/storm-page.c
//    tests: storm
@@
@@
- stamp->page == page
+ true

// storm-stamp: a damaged stamp is taken
//    file: hw/misc/storm-page.c
//    tests: storm
@@
@@
- stamp->check != check_of(seed, stamp)
+ false

// storm-difference: what a page held before counts as well
//    file: hw/misc/storm.c
//    tests: storm
@@
@@
- stamp.check - before
+ stamp.check

// storm-join: joined blocks forget where the second began
//    file: hw/misc/storm-digest.c
//    tests: storm
@@
@@
- a->weighted + b->weighted + digest->block_pages * b->plain
+ a->weighted + b->weighted

// storm-stale: stale pages are not counted
//    file: hw/misc/storm-verify.c
//    tests: storm
@@
@@
- verdict->stale++;

// storm-last-block: the last block is not compared
//    file: hw/misc/storm-verify.c
//    tests: storm
@@
@@
- verdict->checked % storm->digest.block_pages == 0 || ferry_storm_verify_is_complete(verdict)
+ verdict->checked % storm->digest.block_pages == 0

// storm-saved-damaged: a damaged saved storm is taken
//    file: hw/misc/storm-save.c
//    tests: storm
@@
@@
- words[nr_words - 1] != check_of(words, nr_words - 1)
+ false

// storm-saved-position: a saved storm may be anywhere
//    file: hw/misc/storm-save.c
//    tests: storm
@@
@@
- words[AT_POSITION] >= words[AT_WORKING_PAGES]
+ false
