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

void postcopy_pause(Run *run)
{
    vm_do(run->source, "migrate-pause", NULL);
    g_free(vm_wait_status(run->source, "postcopy-paused"));
    g_free(vm_wait_status(run->destination, "postcopy-paused"));
}

void postcopy_listen_again(Run *run)
{
    vm_do(run->destination, "migrate-recover", "{ 'uri': 'tcp:127.0.0.1:0' }");
    g_free(run->uri);
    run->uri = run_listening_uri(run->destination);
    if (run->proxy) {
        run->proxy = proxy_new(run->uri);
        g_free(run->uri);
        run->uri = proxy_uri(run->proxy);
    }
}

void postcopy_resume(Run *run)
{
    g_autofree char *arguments = g_strdup_printf("{ 'uri': '%s', 'resume': true }", run->uri);

    vm_do(run->source, "migrate", arguments);
}

void postcopy_recover(Run *run)
{
    postcopy_listen_again(run);
    postcopy_resume(run);
    postcopy_wait(run);
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
