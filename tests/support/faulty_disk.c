/* A file system that lacks something or fails: the edge of the house, for processes started with LD_PRELOAD.

   FAULT_CALL   fsync (of folders), opendir (open(2) of folders to read), link, flock, rename (of folders without a dot in front), unlink
   FAULT_ERRNO  what the call fails with
   FAULT_PATH   only where this is a part of the path; of a rename and a link, of where it comes from
   FAULT_DOES   1: a link is made all the same, as by a server whose answer is lost */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(type, name, ...) ((type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

static int wanted(const char *call, const char *path) {
    const char *chosen = getenv("FAULT_CALL"), *part = getenv("FAULT_PATH"), *number = getenv("FAULT_ERRNO");
    if (!chosen || strcmp(chosen, call) || (part && !strstr(path, part)))
        return 0;
    errno = number ? atoi(number) : EIO;
    return 1;
}

static int is_folder(const char *path) {
    struct stat found;
    return !lstat(path, &found) && S_ISDIR(found.st_mode);
}

static const char *path_of(int fd, char *buffer, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, size - 1);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

int fsync(int fd) {
    char path[4096];
    if (is_folder(path_of(fd, path, sizeof path)) && wanted("fsync", path))
        return -1;
    return REAL(int, "fsync", int)(fd);
}

static int open_as(const char *name, const char *path, int flags, int mode) {
    if ((flags & O_ACCMODE) == O_RDONLY && is_folder(path) && wanted("opendir", path))
        return -1;
    return REAL(int, name, const char *, int, ...)(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return open_as("open", path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return open_as("open64", path, flags, mode);
}

int linkat(int at, const char *from, int to_at, const char *to, int flags) {
    int (*real)(int, const char *, int, const char *, int) =
        REAL(int, "linkat", int, const char *, int, const char *, int);
    if (!wanted("link", from))
        return real(at, from, to_at, to, flags);
    int number = errno;
    if (getenv("FAULT_DOES"))
        real(at, from, to_at, to, flags);
    errno = number;
    return -1;
}

int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int flock(int fd, int operation) {
    char path[4096];
    return wanted("flock", path_of(fd, path, sizeof path)) ? -1 : REAL(int, "flock", int, int)(fd, operation);
}

int rename(const char *from, const char *to) {
    if (is_folder(from) && !strstr(from, "/.") && wanted("rename", from))
        return -1;
    return REAL(int, "rename", const char *, const char *)(from, to);
}

int unlink(const char *path) {
    return wanted("unlink", path) ? -1 : REAL(int, "unlink", const char *)(path);
}
