/*
 * Whether compressing is worth it: what is chosen on wires, and with contents and CPUs, of all kinds
 *
 * A model of a channel: what a byte takes to read, to compress, and on the wire; and what is left of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "migration/source/pack-choice.h"

#include <glib.h>

#define MIB (UINT64_C(1) << 20)

typedef struct Model {
    double read_ns, pack_ns, wire_ns; /* a byte */
    double ratio;                     /* of what it takes compressed */
    FerryPackChoice choice;
    double spent_ns;
    uint64_t packed_bytes, sent_bytes;
} Model;

static void send_frame(Model *model, uint32_t nr_bytes)
{
    const bool packs = model->choice.packs;
    double build_ns = model->read_ns * nr_bytes, send_ns = model->wire_ns * nr_bytes;

    if (packs) {
        build_ns += model->pack_ns * nr_bytes;
        send_ns *= model->ratio;
        model->packed_bytes += nr_bytes;
    } else if (ferry_pack_choice_wants_try(&model->choice)) {
        double ns = model->pack_ns * FERRY_PACK_TRY_BYTES;

        model->spent_ns += ns;
        ferry_pack_choice_tried(&model->choice, FERRY_PACK_TRY_BYTES,
                                (uint32_t)(FERRY_PACK_TRY_BYTES * model->ratio), (int64_t)ns);
    }
    if (packs == model->choice.packs) {
        ferry_pack_choice_sent(&model->choice, nr_bytes, (int64_t)build_ns, (int64_t)send_ns);
    }
    model->spent_ns += build_ns + send_ns;
    model->sent_bytes += nr_bytes;
}

static void send_bytes(Model *model, uint64_t nr_bytes)
{
    for (uint64_t i = 0; i < nr_bytes; i += 2 * MIB) {
        send_frame(model, 2 * MIB);
    }
}

static double best_ns(const Model *model)
{
    double plain = model->read_ns + model->wire_ns;
    double packed = model->read_ns + model->pack_ns + model->ratio * model->wire_ns;

    return MIN(plain, packed) * (double)model->sent_bytes;
}

/* Never more than 5 % off the better of both, whatever that is. */
static void test_wires(void)
{
    static const double wires[] = {0.05, 0.3, 1, 2, 4, 8, 30, 300};
    static const double ratios[] = {0.02, 0.3, 0.5, 0.8, 1};

    for (size_t i = 0; i < G_N_ELEMENTS(wires); i++) {
        for (size_t j = 0; j < G_N_ELEMENTS(ratios); j++) {
            Model model = {.read_ns = 0.2, .pack_ns = 2, .wire_ns = wires[i], .ratio = ratios[j]};

            ferry_pack_choice_init(&model.choice);
            /* What comes first cannot be known: it is not to be judged by. */
            send_bytes(&model, 16 * MIB);
            model.spent_ns = 0;
            model.sent_bytes = 0;
            send_bytes(&model, 8192 * MIB);
            g_test_message("%g ns a byte, %g of it left: %.3f of the best, %.2f packed", wires[i],
                           ratios[j], model.spent_ns / best_ns(&model),
                           (double)model.packed_bytes / (double)model.sent_bytes);
            g_assert_cmpfloat(model.spent_ns, <, best_ns(&model) * 1.055);
        }
    }
}

/* A fast wire: next to nothing is spent on finding out, from the first byte on. */
static void test_costs_nothing(void)
{
    Model model = {.read_ns = 0.2, .pack_ns = 3, .wire_ns = 0.2, .ratio = 0.3};

    ferry_pack_choice_init(&model.choice);
    send_bytes(&model, 512 * MIB);
    g_assert_cmpuint(model.packed_bytes, ==, 0);
    g_assert_cmpfloat(model.spent_ns, <, best_ns(&model) * 1.02);
}

/* The wire gets slow, and fast again. */
static void test_changes(void)
{
    Model model = {.read_ns = 0.2, .pack_ns = 2, .wire_ns = 0.2, .ratio = 0.4};

    ferry_pack_choice_init(&model.choice);
    send_bytes(&model, 4096 * MIB);
    g_assert_false(model.choice.packs);
    model.wire_ns = 10;
    send_bytes(&model, 32 * MIB);
    g_assert_true(model.choice.packs);
    model.wire_ns = 0.2;
    /* It costs no more than plain did on the slow wire: that shows when some go plain. */
    send_bytes(&model, 2048 * MIB);
    g_assert_false(model.choice.packs);
}

/* Content that does not get smaller comes, or other threads want the CPU. */
static void test_stops_paying(void)
{
    Model model = {.read_ns = 0.2, .pack_ns = 2, .wire_ns = 8, .ratio = 0.4};

    ferry_pack_choice_init(&model.choice);
    send_bytes(&model, 64 * MIB);
    g_assert_true(model.choice.packs);
    model.ratio = 1;
    send_bytes(&model, 32 * MIB);
    g_assert_false(model.choice.packs);
    model.ratio = 0.4;
    send_bytes(&model, 128 * MIB);
    g_assert_true(model.choice.packs);
    model.pack_ns = 20;
    send_bytes(&model, 32 * MIB);
    g_assert_false(model.choice.packs);
}

/* Small frames count by their size, and empty ones not at all. */
static void test_frames(void)
{
    FerryPackChoice choice;

    ferry_pack_choice_init(&choice);
    for (unsigned i = 0; i < 1000; i++) {
        ferry_pack_choice_sent(&choice, 0, 1000000, 1000000);
    }
    g_assert_false(ferry_pack_choice_wants_try(&choice));
    for (unsigned i = 0; i < 8 * 256 - 1; i++) {
        ferry_pack_choice_sent(&choice, 4096, 4096, 8 * 4096);
        g_assert_false(ferry_pack_choice_wants_try(&choice));
    }
    ferry_pack_choice_sent(&choice, 4096, 4096, 8 * 4096);
    g_assert_true(ferry_pack_choice_wants_try(&choice));
    g_assert_cmpfloat_with_epsilon(choice.build_ns, 1, 0.01);
    g_assert_cmpfloat_with_epsilon(choice.send_ns, 8, 0.01);
    /* Nothing was there to be tried. */
    ferry_pack_choice_tried(&choice, 0, 0, 0);
    g_assert_true(ferry_pack_choice_wants_try(&choice));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/pack-choice/wires", test_wires);
    g_test_add_func("/pack-choice/costs-nothing", test_costs_nothing);
    g_test_add_func("/pack-choice/changes", test_changes);
    g_test_add_func("/pack-choice/stops-paying", test_stops_paying);
    g_test_add_func("/pack-choice/frames", test_frames);
    return g_test_run();
}
