/* run_plan LIBRARY PLAN RESULTS: loads a library of kernels as Python does on Windows, and runs a plan through it.
 *
 * PLAN has the number of slots and the slots, as int64. Then, for each array of the call: the slot of its address, its
 * bytes, whether it is a result (1), and its content. RESULTS gets the content of the results after the call.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

#define MOST 16

static void fail(const char *what)
{
    fprintf(stderr, "%s (error %lu)\n", what, GetLastError());
    exit(1);
}

int main(int argc, char **argv)
{
    void (*forward)(int64_t *);
    int64_t count, of[3], *slots;
    size_t results = 0, bytes[MOST];
    void *content[MOST];
    HMODULE library;
    FILE *plan, *out;

    if (argc != 4 || !(library = LoadLibraryA(argv[1])))
        fail("the library is not loaded");
    if (!(forward = (void (*)(int64_t *))(void *)GetProcAddress(library, "numlstm_forward")))
        fail("it has no numlstm_forward");
    if (!(plan = fopen(argv[2], "rb")) || fread(&count, 8, 1, plan) != 1)
        fail("there is no plan");
    slots = malloc((size_t)count * 8);
    if (fread(slots, 8, (size_t)count, plan) != (size_t)count)
        fail("the plan is cut short");
    while (fread(of, 8, 3, plan) == 3) {
        const size_t length = (size_t)of[1];
        char *array = VirtualAlloc(NULL, length + 1, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
        if (!array || fread(array, 1, length, plan) != length)
            fail("an array is cut short");
        slots[of[0]] = (int64_t)(intptr_t)array;
        if (of[2]) {
            content[results] = array;
            bytes[results++] = length;
        }
    }
    forward(slots);
    out = fopen(argv[3], "wb");
    for (size_t n = 0; n < results; n++)
        if (fwrite(content[n], 1, bytes[n], out) != bytes[n])
            fail("the results are not written");
    return fclose(out);
}
