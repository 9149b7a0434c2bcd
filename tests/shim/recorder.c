/* Preloaded into a process: writes down, in order, the calls that change what a disk below a directory holds.
 *
 *   recorder_start(directory, trace)   from now on, into the file `trace`
 *   recorder_mark(text)                an entry of the process's own
 *   recorder_stop()
 *
 * An entry is the line "op offset size path", followed by `size` bytes: the data of a write (W), the new path
 * of a rename (R), the text of a mark (M); nothing for a flush (F), a cut (T, offset is the size), an unlink (U).
 * A flush is written down when it returns: what other threads wrote meanwhile counts as covered.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static FILE *trace;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* What `path` is called below the root; NULL for others. */
static const char *below(const char *path)
{
    size_t n = strlen(root);
    return trace && strncmp(path, root, n) == 0 && (path[n] == '/' || !path[n]) ? path + n + (path[n] == '/') : NULL;
}

static const char *name_of(int fd, char *path)
{
    char link[40];
    if (!trace) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, PATH_MAX - 1);
    if (n < 0) return NULL;
    path[n] = 0;
    return below(path);
}

static void note(char op, const char *name, off_t at, const struct iovec *parts, int count, size_t size)
{
    if (!name) return;
    pthread_mutex_lock(&lock);
    fprintf(trace, "%c %lld %zu %s\n", op, (long long)at, size, name);
    for (int i = 0; i < count && size; i++) {
        size_t n = parts[i].iov_len < size ? parts[i].iov_len : size;
        fwrite(parts[i].iov_base, 1, n, trace);
        size -= n;
    }
    pthread_mutex_unlock(&lock);
}

void recorder_start(const char *directory, const char *file)
{
    snprintf(root, sizeof root, "%s", directory);
    trace = fopen(file, "w");
}

void recorder_mark(const char *text)
{
    struct iovec part = {(void *)text, strlen(text)};
    note('M', "", 0, &part, 1, part.iov_len);
}

void recorder_stop(void)
{
    fclose(trace);
    trace = NULL;
}

static ssize_t wrote(int fd, ssize_t done, off_t at, const struct iovec *parts, int count)
{
    char path[PATH_MAX];
    if (done > 0) note('W', name_of(fd, path), at, parts, count, done);
    return done;
}

#define WRITE(name, args, pass, at, parts, count)                               \
    ssize_t name args                                                           \
    {                                                                           \
        off_t start = (at);                                                     \
        struct iovec one = {(void *)b, n};                                      \
        (void)one;                                                              \
        return wrote(fd, REAL(name) pass, start, parts, count);                 \
    }

#define HERE lseek(fd, 0, SEEK_CUR)

WRITE(write, (int fd, const void *b, size_t n), (fd, b, n), HERE, &one, 1)
WRITE(pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), o, &one, 1)
WRITE(pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), o, &one, 1)
WRITE(writev, (int fd, const struct iovec *b, int n), (fd, b, n), HERE, b, n)
WRITE(pwritev, (int fd, const struct iovec *b, int n, off_t o), (fd, b, n, o), o, b, n)
WRITE(pwritev64, (int fd, const struct iovec *b, int n, off64_t o), (fd, b, n, o), o, b, n)

#define ON_FD(name, args, pass, op, at)                                         \
    int name args                                                               \
    {                                                                           \
        char path[PATH_MAX];                                                    \
        int result = REAL(name) pass;                                           \
        if (result == 0) note(op, name_of(fd, path), at, NULL, 0, 0);           \
        return result;                                                          \
    }

ON_FD(fsync, (int fd), (fd), 'F', 0)
ON_FD(fdatasync, (int fd), (fd), 'F', 0)
ON_FD(ftruncate, (int fd, off_t n), (fd, n), 'T', n)
ON_FD(ftruncate64, (int fd, off64_t n), (fd, n), 'T', n)

int rename(const char *from, const char *to)
{
    int result = REAL(rename)(from, to);
    const char *target = below(to);
    if (result == 0 && target) {
        struct iovec part = {(void *)target, strlen(target)};
        note('R', below(from), 0, &part, 1, part.iov_len);
    }
    return result;
}

int unlink(const char *path)
{
    int result = REAL(unlink)(path);
    if (result == 0) note('U', below(path), 0, NULL, 0, 0);
    return result;
}
