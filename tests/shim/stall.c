/* A disk that stalls: fdatasync waits as many milliseconds as the file named by APICAL_STALL holds, while it exists. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int descriptor)
{
    static int (*real)(int);
    const char *name = getenv("APICAL_STALL");
    FILE *file = name ? fopen(name, "r") : NULL;
    int milliseconds = 0;
    if (file) {
        if (fscanf(file, "%d", &milliseconds) == 1)
            usleep((useconds_t)milliseconds * 1000);
        fclose(file);
    }
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return real(descriptor);
}
