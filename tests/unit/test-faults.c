/*
 * Every fault point, with every fault, in every mode: see fault-world.h.
 *
 *   test-faults             a sample: the part of the walk that fits into every check
 *   test-faults --all       all of it
 *   test-faults --only SUBSTRING...  those of all whose name (mode/side/point/effect/pass) has that
 *
 * Cases run several at a time, as they wait most of the time: FERRY_FAULT_JOBS of them, or four.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fault-world.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fault-plan.h"
#include "migration/destination/state.h"

/* How often a case is tried whose point is not reached. */
#define TRIES_MAX 3

/* How often the modes are run at most without a fault. */
#define USUAL_RUNS 4

/* A referee that takes longer is stuck itself. */
#define REFEREE_S 900

static const char *const side_names[] = {"source", "destination"};

typedef struct Walk {
    FaultCase *cases;
    FaultResult *results; /* shared */
    unsigned nr;
} Walk;

static struct {
    bool all;
    GPtrArray *only; /* of char *, not owned; NULL: whatever */
    unsigned nr_jobs;
    /* What each mode passes when nothing goes wrong. */
    FaultResult *usual; /* shared */
    Walk walk;
} me;

static char *name_case(const FaultCase *c)
{
    return g_strdup_printf("%s/%s/%s/%s/%u", fault_mode_name(c->mode), side_names[c->fault.side],
                           fault_point_name(c->fault.point), fault_effect_name(c->fault.effect),
                           c->fault.nth);
}

/* --- Running cases ---------------------------------------------------------------------------- */

static void *share(size_t nr_bytes)
{
    void *memory = mmap(NULL, nr_bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    g_assert_true(memory != MAP_FAILED);
    return memory;
}

static pid_t start(const Walk *walk, unsigned number)
{
    pid_t parent = getpid(), pid = fork();

    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(1);
        }
        alarm(REFEREE_S);
        /* On a busy machine a session may end of something else first, that it is taken for silent. */
        for (unsigned i = 0; i < TRIES_MAX && walk->results[number].verdict != FAULT_PASSED &&
                             walk->results[number].verdict != FAULT_WRONG;
             i++) {
            fault_case_run(&walk->cases[number], &walk->results[number]);
        }
        _exit(0);
    }
    return pid;
}

/* What must not be: it went wrong, or was not reached where it always is. */
static bool is_fault(const FaultCase *c, const FaultResult *result)
{
    return result->verdict != FAULT_NOT_REACHED ||
           fault_plan_is_sure(c->fault.side, c->fault.point, c->mode);
}

/* What is not as it should be, when it happens: a walk takes long. */
static void tell(const FaultCase *c, const FaultResult *result)
{
    g_autofree char *name = NULL;

    if (result->verdict != FAULT_PASSED && c->fault.effect != FAULT_NOTHING) {
        name = name_case(c);
        printf("# %s %s: %s (the source %s, the destination %s, %u ms)\n",
               is_fault(c, result) ? "FAILED" : "skipped", name,
               result->verdict == FAULT_NOT_REACHED ? "not reached" : result->why,
               fault_outcome_name(result->outcomes[0]), fault_outcome_name(result->outcomes[1]),
               result->ms);
        fflush(stdout);
    }
}

static void run_walk(const Walk *walk)
{
    g_autofree pid_t *pids = g_new0(pid_t, walk->nr + 1);
    unsigned next = 0, nr_running = 0, nr_ended = 0;

    while (next < walk->nr || nr_running) {
        int status;
        pid_t ended;

        while (next < walk->nr && nr_running < me.nr_jobs) {
            pids[next] = start(walk, next);
            next++;
            nr_running++;
        }
        ended = waitpid(-1, &status, 0);
        for (unsigned i = 0; i < next; i++) {
            FaultResult *result = &walk->results[i];

            if (pids[i] == ended) {
                /* The number may come again. */
                pids[i] = 0;
                nr_running--;
                if (status != 0) {
                    result->verdict = FAULT_WRONG;
                    g_snprintf(result->why, sizeof(result->why), "the referee ended with 0x%x",
                               (unsigned)status);
                }
                tell(&walk->cases[i], result);
                if (++nr_ended % 100 == 0) {
                    printf("# %u of %u\n", nr_ended, walk->nr);
                    fflush(stdout);
                }
            }
        }
    }
}

/* --- What is walked --------------------------------------------------------------------------- */

static bool is_passed(FaultMode mode, unsigned side, unsigned point)
{
    return me.usual[mode].passes[side][point] > 0;
}

/* Whether each point was passed in the modes that the plan says, and in one at least. */
static bool is_as_planned(void)
{
    for (unsigned point = 0; point < FERRY_FAULT_NR_POINTS; point++) {
        bool ever = false;

        for (unsigned side = 0; side < FAULT_SIDES; side++) {
            for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
                ever |= is_passed(mode, side, point);
                if (!fault_plan_agrees(side, point, mode, is_passed(mode, side, point))) {
                    return false;
                }
            }
        }
        if (!ever) {
            return false;
        }
    }
    return true;
}

/* What was passed in either run was passed, and what failed in either has failed. */
static void add_usual(const FaultResult *more)
{
    for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
        FaultResult sum = me.usual[mode].verdict == FAULT_PASSED ? more[mode] : me.usual[mode];

        for (unsigned side = 0; side < FAULT_SIDES; side++) {
            for (unsigned point = 0; point < FERRY_FAULT_NR_POINTS; point++) {
                sum.passes[side][point] =
                    MAX(me.usual[mode].passes[side][point], more[mode].passes[side][point]);
            }
        }
        me.usual[mode] = sum;
    }
}

/* On a busy machine a point may be missed that depends on time: then the modes are run again. */
static void run_usual(void)
{
    FaultCase cases[FAULT_MODES];
    Walk walk = {.cases = cases, .results = me.usual, .nr = FAULT_MODES};

    for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
        cases[mode] = (FaultCase){.mode = mode, .fault = {.effect = FAULT_NOTHING}};
    }
    run_walk(&walk);
    for (unsigned i = 0; i < USUAL_RUNS - 1 && !is_as_planned(); i++) {
        walk.results = share(sizeof(FaultResult) * FAULT_MODES);
        run_walk(&walk);
        add_usual(walk.results);
    }
}

/* The first time that it is passed; of threads, each: they are for different things. */
static unsigned nr_walked(FaultMode mode, unsigned side, unsigned point)
{
    bool is_thread = point >= FERRY_FAULT_THREAD_CONTROL && point <= FERRY_FAULT_THREAD_FAULT;
    unsigned nr = me.usual[mode].passes[side][point];

    return is_thread ? nr : MIN(nr, 1);
}

/*
 * The sample: of each point, on each side that passes it, one effect in one mode.  Both turn from point to point,
 * so that each effect comes in each mode; what is in the sample does not change from run to run.
 */
static bool is_in_sample(const FaultCase *c, unsigned turn)
{
    unsigned nr_modes = 0, nth = 0;

    for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
        if (is_passed(mode, c->fault.side, c->fault.point)) {
            nth += mode < c->mode;
            nr_modes++;
        }
    }
    return c->fault.effect == turn % FAULT_EFFECTS && c->fault.nth == 1 &&
           nth == turn / FAULT_EFFECTS % nr_modes;
}

static bool is_wanted(const FaultCase *c, unsigned turn)
{
    g_autofree char *name = name_case(c);

    for (guint i = 0; me.only && i < me.only->len; i++) {
        if (strstr(name, g_ptr_array_index(me.only, i))) {
            return true;
        }
    }
    return !me.only && (me.all || is_in_sample(c, turn));
}

static void collect(void)
{
    g_autoptr(GArray) cases = g_array_new(FALSE, FALSE, sizeof(FaultCase));
    unsigned turn = 0;

    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        for (unsigned point = 0; point < FERRY_FAULT_NR_POINTS; point++, turn++) {
            for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
                const unsigned nr = nr_walked(mode, side, point);

                for (unsigned i = 0; i < nr * FAULT_EFFECTS; i++) {
                    const FaultCase c = {mode,
                                         {side, point, i % FAULT_EFFECTS, i / FAULT_EFFECTS + 1},
                                         FAULT_HONEST};

                    if (is_wanted(&c, turn)) {
                        g_array_append_val(cases, c);
                    }
                }
            }
        }
    }
    me.walk.nr = cases->len;
    me.walk.results = share(sizeof(FaultResult) * (cases->len + 1));
    me.walk.cases = (FaultCase *)(void *)g_array_free(g_steal_pointer(&cases), FALSE);
}

/* --- The table -------------------------------------------------------------------------------- */

/* The worst of all passes. */
static char find_verdict(FaultMode mode, unsigned side, unsigned point, unsigned effect)
{
    static const char letters[] = {'.', 'p', 'F', '-'};
    FaultVerdict worst = FAULT_NOT_RUN;

    for (unsigned i = 0; i < me.walk.nr; i++) {
        const FaultCase *c = &me.walk.cases[i];
        FaultVerdict verdict = me.walk.results[i].verdict;

        if (c->mode == mode && c->fault.side == side && c->fault.point == point &&
            c->fault.effect == effect && worst != FAULT_WRONG && verdict > worst) {
            worst = verdict;
        }
    }
    return letters[worst];
}

static void print_cell(FaultMode mode, unsigned side, unsigned point)
{
    char text[FAULT_EFFECTS + 1] = {0};

    for (unsigned effect = 0; effect < FAULT_EFFECTS; effect++) {
        text[effect] = find_verdict(mode, side, point, effect);
    }
    printf(" %-9s", is_passed(mode, side, point) ? text : fault_plan_cell(side, point, mode));
}

static void print_table(void)
{
    unsigned nr[FAULT_NOT_REACHED + 1] = {0}, nr_never = 0, slowest = 0;

    printf("# p passed, F failed, - not reached this time, . not in this run; in each cell:");
    for (unsigned effect = 0; effect < FAULT_EFFECTS; effect++) {
        printf(" %s", fault_effect_name(effect));
    }
    printf("\n# %-36s", "");
    for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
        printf(" %-9s", fault_mode_name(mode));
    }
    printf("\n");
    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        for (unsigned point = 0; point < FERRY_FAULT_NR_POINTS; point++) {
            if (!fault_plan_has(side, point)) {
                continue;
            }
            printf("# %-11s %-24s", side_names[side], fault_point_name(point));
            for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
                print_cell(mode, side, point);
                nr_never += is_passed(mode, side, point) ? 0 : FAULT_EFFECTS;
            }
            printf("\n");
        }
    }
    for (unsigned i = 0; i < me.walk.nr; i++) {
        nr[me.walk.results[i].verdict]++;
        slowest = me.walk.results[i].ms > me.walk.results[slowest].ms ? i : slowest;
    }
    fault_plan_print_reasons();
    printf(
        "# %u combinations: %u passed, %u failed, %u not reached this time; %u cannot be reached\n",
        me.walk.nr, nr[FAULT_PASSED], nr[FAULT_WRONG], nr[FAULT_NOT_REACHED], nr_never);
    if (me.walk.nr) {
        g_autofree char *name = name_case(&me.walk.cases[slowest]);

        printf("# the slowest: %s, %u ms\n", name, me.walk.results[slowest].ms);
    }
}

/* --- Tests ------------------------------------------------------------------------------------ */

/* The lists in fault.h are in the order of those that they follow. */
static void test_names(void)
{
    for (unsigned phase = 1; phase < FERRY_SOURCE_PHASES; phase++) {
        g_autofree char *name = g_strdup_printf("source-%s", ferry_source_phase_name(phase));

        g_assert_cmpstr(fault_point_name(FERRY_FAULT_SOURCE_COPYING + phase - 1), ==, name);
    }
    for (unsigned phase = 1; phase < FERRY_DESTINATION_NR_PHASES; phase++) {
        g_autofree char *name =
            g_strdup_printf("destination-%s", ferry_destination_phase_name(phase));

        g_assert_cmpstr(fault_point_name(FERRY_FAULT_DESTINATION_COPYING + phase - 1), ==, name);
    }
    g_assert_cmpint(FERRY_FAULT_SAY_HELLO + FERRY_FRAME_LAST - 1, ==, FERRY_FAULT_SAY_TAKEN);
    g_assert_cmpint(FERRY_FAULT_HEAR_HELLO + FERRY_FRAME_GO - 1, ==, FERRY_FAULT_HEAR_GO);
    g_assert_cmpint(FERRY_FAULT_HEAR_HELLO + FERRY_FRAME_FORGET - 1, ==, FERRY_FAULT_HEAR_FORGET);
}

/* Without a fault each mode ends as it should, and passes what the plan says, no more and no less. */
static void test_usual(void)
{
    for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
        if (me.usual[mode].verdict != FAULT_PASSED) {
            g_test_message("%s: %s", fault_mode_name(mode), me.usual[mode].why);
            g_test_fail();
        }
    }
    for (unsigned point = 0; point < FERRY_FAULT_NR_POINTS; point++) {
        bool ever = false;

        for (unsigned side = 0; side < FAULT_SIDES; side++) {
            for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
                bool passed = is_passed(mode, side, point);

                ever |= passed;
                if (!fault_plan_agrees(side, point, mode, passed)) {
                    g_test_message("%s/%s/%s: passed %u times, against the plan",
                                   fault_mode_name(mode), side_names[side], fault_point_name(point),
                                   me.usual[mode].passes[side][point]);
                    g_test_fail();
                }
            }
        }
        if (!ever) {
            g_test_message("no mode passes %s", fault_point_name(point));
            g_test_fail();
        }
    }
}

/* A referee that finds nothing wrong with these finds nothing. */
static void test_lies(void)
{
    static const char *const words[FAULT_LIES] = {
        [FAULT_LIE_BOTH] = "both sides ran the guest",
        [FAULT_LIE_PAGE] = "1 pages of RAM block 'pc.ram' are wrong",
        [FAULT_LIE_LEAK] = "descriptors and",
        [FAULT_LIE_REASON] = "does not say why",
        [FAULT_LIE_WAIT] = "a wait of the source did not end",
    };
    FaultCase cases[FAULT_LIES - 1];
    const Walk walk = {
        .cases = cases,
        .results = share(sizeof(FaultResult) * FAULT_LIES),
        .nr = FAULT_LIES - 1,
    };

    for (unsigned i = 0; i < walk.nr; i++) {
        const FaultLie lie = i + 1;

        cases[i] = (FaultCase){
            .mode = lie == FAULT_LIE_REASON ? FAULT_NO_MEMORY : FAULT_PRECOPY,
            .fault = {.effect = FAULT_NOTHING},
            .lie = lie,
        };
    }
    run_walk(&walk);
    for (unsigned i = 0; i < walk.nr; i++) {
        g_assert_cmpint(walk.results[i].verdict, ==, FAULT_WRONG);
        if (!strstr(walk.results[i].why, words[i + 1])) {
            g_error("not '%s', but '%s'", words[i + 1], walk.results[i].why);
        }
    }
}

static void test_mode(gconstpointer data)
{
    const FaultMode mode = GPOINTER_TO_UINT(data);
    unsigned nr = 0;

    for (unsigned i = 0; i < me.walk.nr; i++) {
        const FaultResult *result = &me.walk.results[i];
        const FaultCase *c = &me.walk.cases[i];

        if (c->mode != mode) {
            continue;
        }
        nr++;
        if (result->verdict != FAULT_PASSED && is_fault(c, result)) {
            g_test_fail();
        }
    }
    if (nr == 0 && !me.only) {
        g_test_fail();
    }
}

static bool print_usual(void)
{
    for (unsigned side = 0; side < FAULT_SIDES; side++) {
        for (unsigned point = 0; point < FERRY_FAULT_NR_POINTS; point++) {
            bool ever = false;

            for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
                ever |= is_passed(mode, side, point);
            }
            if (!ever) {
                continue;
            }
            printf("%s %s", side_names[side], fault_point_name(point));
            for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
                printf(" %u", me.usual[mode].passes[side][point]);
            }
            printf("\n");
        }
    }
    for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
        printf("%s: %s %u ms\n", fault_mode_name(mode), me.usual[mode].why, me.usual[mode].ms);
    }
    return true;
}

int main(int argc, char **argv)
{
    const char *jobs = g_getenv("FERRY_FAULT_JOBS");
    bool usual = false;
    char *keep_going[] = {argv[0], "-k"};
    char **args = keep_going;
    int nr_args = G_N_ELEMENTS(keep_going);

    g_test_init(&nr_args, &args, NULL);
    me.nr_jobs = jobs ? (unsigned)MAX(atoi(jobs), 1) : 4;
    for (int i = 1; i < argc; i++) {
        me.all |= g_str_equal(argv[i], "--all");
        usual |= g_str_equal(argv[i], "--usual");
        if (g_str_equal(argv[i], "--only") && i + 1 < argc) {
            me.only = me.only ?: g_ptr_array_new();
            g_ptr_array_add(me.only, argv[++i]);
        }
    }
    me.usual = share(sizeof(FaultResult) * FAULT_MODES);
    run_usual();
    if (usual) {
        return !print_usual();
    }
    collect();
    run_walk(&me.walk);
    g_test_add_func("/faults/names", test_names);
    g_test_add_func("/faults/lies-are-found", test_lies);
    g_test_add_func("/faults/usual", test_usual);
    for (unsigned mode = 0; mode < FAULT_MODES; mode++) {
        g_autofree char *path = g_strdup_printf("/faults/%s", fault_mode_name(mode));

        g_test_add_data_func(path, GUINT_TO_POINTER(mode), test_mode);
    }
    print_table();
    return g_test_run();
}
