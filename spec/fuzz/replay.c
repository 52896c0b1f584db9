/* replay.c - runs a fuzz target once over each file: the corpus as a spec, without libFuzzer.
 *
 *   fuzz_NAME FILE...      prints "ok - NAME takes FILE"; what goes wrong aborts */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static int run(const char *path) {
    static uint8_t bytes[1 << 20];
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    uint8_t *exact = malloc(n ? n : 1); /* a block of its own, so that the sanitizer sees one byte read too far */
    for (size_t i = 0; i < n; i++) exact[i] = bytes[i];
    LLVMFuzzerTestOneInput(exact, n);
    free(exact);
    return 1;
}

int main(int argc, char **argv) {
    int failed = argc < 2;
    for (int i = 1; i < argc; i++) {
        int ok = run(argv[i]);
        failed |= !ok;
        printf("%s - %s takes %s\n", ok ? "ok" : "not ok", argv[0], argv[i]);
        fflush(stdout);
    }
    return failed;
}
