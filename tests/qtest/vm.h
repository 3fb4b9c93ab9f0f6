/*
 * One QEMU under test.
 *
 * Every function fails the test when QEMU answers something else than it should. Text that goes to
 * QEMU may name the test's own directory as {dir}; in options, {vm} is the QEMU's name.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef FERRY_QTEST_VM_H
#define FERRY_QTEST_VM_H

#include "libqtest.h"

/* How long anything may take that a test waits for. */
#define VM_PATIENCE_S 40

typedef struct Vm {
    QTestState *qts;
    const char *name;
    bool stock;        /* Debian's own QEMU: it knows nothing of Ferry */
    bool stopped;      /* by SIGSTOP */
    bool gone;         /* killed, or has ended by itself */
    GPtrArray *events; /* names in order of arrival; of MIGRATION with the status, of
                          MIGRATION_PASS with the number: "MIGRATION active" */
} Vm;

/* Why three machines cannot have 32 MiB of huge pages each, or NULL. */
const char *no_huge_pages(void);

/* @text with {dir} replaced; to be freed. */
char *in_dir(const char *text);

/*
 * Start a QEMU with these further options. Its standard error goes to {dir}/NAME.log. @name must
 * be new in this test.
 */
Vm *vm_start(const char *name, bool stock, const char *options);

/* End it in good order. It must not have been killed. */
void vm_quit(Vm *vm);

/* SIGSTOP and SIGCONT. */
void vm_freeze(Vm *vm);
void vm_thaw(Vm *vm);

/* SIGKILL. */
void vm_kill(Vm *vm);

/* It must end by itself, soon, with this exit status. */
void vm_expect_exit(Vm *vm, int status);

/* What it has written to its standard error. */
char *vm_log(const Vm *vm);

/* Run a command that must succeed; returns what it returns. @arguments is JSON, or NULL. */
QDict *vm_command(Vm *vm, const char *command, const char *arguments);
void vm_do(Vm *vm, const char *command, const char *arguments);

/* Run a command that must fail; returns the description of the error. */
char *vm_command_fails(Vm *vm, const char *command, const char *arguments);

/* A command of the human monitor; returns its output. */
char *vm_hmp(Vm *vm, const char *line);

/* Pass it a descriptor under a name. */
void vm_pass_fd(Vm *vm, int fd, const char *name);

/* "running", "paused", ... */
char *vm_run_state(Vm *vm);

/* Wait until it is this one. */
void vm_wait_run_state(Vm *vm, const char *state);

/* query-migrate's status, "none" when there is none. */
char *vm_migration_status(Vm *vm);

/* query-migrate's error-desc, or NULL. */
char *vm_migration_error(Vm *vm);

/* query-ferry's phase, "none" when there is none (and of a stock QEMU). */
char *vm_ferry_phase(Vm *vm);

/* Wait until query-migrate shows one of these (separated by spaces); returns which. */
char *vm_wait_status(Vm *vm, const char *statuses);

/* Wait until query-ferry shows this phase; it is a failure if the migration ends before. */
void vm_wait_ferry_phase(Vm *vm, const char *phase);

/* Set capabilities, separated by spaces; "no-NAME" switches one off. */
void vm_set_capabilities(Vm *vm, const char *names);

/* To a register of the PCI device at @slot, function 0, as firmware does. */
void vm_write_pci(Vm *vm, unsigned slot, unsigned offset, uint32_t value);

/* Bytes a second; 0 is no limit. */
void vm_set_bandwidth(Vm *vm, uint64_t bytes);

/* How often an event has come so far. */
unsigned vm_count_events(Vm *vm, const char *event);

/* Wait until an event has come at least once. */
void vm_wait_event(Vm *vm, const char *event);

/* How many file descriptors it has open. */
unsigned vm_count_fds(const Vm *vm);

#endif
