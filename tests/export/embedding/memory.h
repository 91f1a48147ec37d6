/* Memory whose end is the end of what the process may touch: one byte too far ends it. Plain malloc where
 * something else watches, or there is no mmap.
 */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifndef PLAIN_MEMORY
#include <sys/mman.h>
#include <unistd.h>
#endif

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(2);
}

static void *guarded(size_t bytes)
{
#ifdef PLAIN_MEMORY
    void *plain = malloc(bytes ? bytes : 1);
    if (plain == NULL)
        fail("no memory");
    return plain;
#else
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (bytes + page - 1) / page * page;
    unsigned char *start = (unsigned char *)mmap(NULL, room + page, PROT_READ | PROT_WRITE,
                                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == (unsigned char *)MAP_FAILED || mprotect(start + room, page, PROT_NONE) != 0)
        fail("no memory");
    return start + (room - bytes);
#endif
}

static void discard(void *memory, size_t bytes)
{
#ifdef PLAIN_MEMORY
    (void)bytes;
    free(memory);
#else
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t room = (bytes + page - 1) / page * page;
    munmap((unsigned char *)memory - (room - bytes), room + page);
#endif
}

static size_t length_of(FILE *file)
{
    long length;
    if (fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0)
        fail("a file has no length");
    return (size_t)length;
}

static unsigned char *contents(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    unsigned char *bytes;
    if (file == NULL)
        fail("a file cannot be opened");
    *length = length_of(file);
    bytes = (unsigned char *)guarded(*length);
    if (fread(bytes, 1, *length, file) != *length)
        fail("a file cannot be read");
    fclose(file);
    return bytes;
}

#endif
