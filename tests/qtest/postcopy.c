/*
 * Post-copy: parts of cases
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "qobject/qdict.h"

#include "postcopy.h"

void postcopy_wait(Run *run)
{
    g_free(vm_wait_status(run->source, "postcopy-active completed"));
    g_free(vm_wait_status(run->destination, "postcopy-active completed"));
}

void postcopy_go_over(Run *run)
{
    vm_do(run->source, "migrate-start-postcopy", NULL);
    postcopy_wait(run);
}

void postcopy_go_over_slowly(Run *run)
{
    vm_do(run->source, "migrate-set-parameters", SLOW_PUSH);
    postcopy_go_over(run);
}

void postcopy_lose_source(Run *run)
{
    postcopy_go_over_slowly(run);
    vm_kill(run->source);
    g_free(vm_wait_status(run->destination, "postcopy-paused"));
}

uint64_t postcopy_fetch_stat(Vm *vm, const char *name)
{
    QDict *info = vm_command(vm, "query-ferry", NULL);
    uint64_t value = (uint64_t)qdict_get_int(qdict_get_qdict(info, "fetch"), name);

    qobject_unref(info);
    return value;
}

void postcopy_expect_fetched(Run *run)
{
    g_assert_cmpuint(postcopy_fetch_stat(run->destination, "handed-pages"), >, 0);
    g_assert_cmpuint(postcopy_fetch_stat(run->destination, "missing-pages"), ==, 0);
    g_assert_cmpuint(postcopy_fetch_stat(run->destination, "placed-pages"), ==,
                     postcopy_fetch_stat(run->destination, "handed-pages"));
    g_assert_cmpuint(postcopy_fetch_stat(run->source, "handed-pages"), ==,
                     postcopy_fetch_stat(run->destination, "handed-pages"));
}
