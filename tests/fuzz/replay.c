/*
 * Run a fuzz target on files that are there already, where libFuzzer is not to be had
 *
 *   replay-NAME FILE-OR-DIRECTORY...
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "fuzz.h"

#include <stdbool.h>
#include <stdio.h>

static bool replay_file(const char *path)
{
    g_autofree char *content = NULL;
    g_autofree uint8_t *exact = NULL;
    g_autoptr(GError) error = NULL;
    size_t nr_bytes;

    if (!g_file_get_contents(path, &content, &nr_bytes, &error)) {
        fprintf(stderr, "replay: %s\n", error->message);
        return false;
    }
    fprintf(stderr, "replay: %s\n", path);
    exact = fuzz_exact((const uint8_t *)content, nr_bytes);
    LLVMFuzzerTestOneInput(exact, nr_bytes);
    return true;
}

static bool replay_directory(const char *path)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) dir = g_dir_open(path, 0, &error);
    const char *name;

    if (dir == NULL) {
        fprintf(stderr, "replay: %s\n", error->message);
        return false;
    }
    while ((name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *file = g_build_filename(path, name, NULL);

        if (!replay_file(file)) {
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        bool ok = g_file_test(argv[i], G_FILE_TEST_IS_DIR) ? replay_directory(argv[i])
                                                           : replay_file(argv[i]);

        if (!ok) {
            return 1;
        }
    }
    return 0;
}
