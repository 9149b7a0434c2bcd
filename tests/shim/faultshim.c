/* Preloaded into a process: counts the calls that change files below a directory, and at one of them
 * kills the process (before it, after it, or half-way through a write) or makes the call fail.
 *
 *   faultshim_arm(directory, k, mode)   from now on, call number k (the first is 1) meets `mode`
 *   faultshim_count()                   how many calls there were since
 *
 * The k-th call meets its fate once; later calls are made as usual, as after a disk's hiccup.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL_BEFORE = 1, KILL_AFTER = 2, TEAR = 3, FAIL_IO = 4, FAIL_FULL = 5 };

static char root[PATH_MAX];
static long armed, count;
static int mode;

void faultshim_arm(const char *directory, long k, int how)
{
    snprintf(root, sizeof root, "%s/", directory);
    armed = k;
    mode = how;
    count = 0;
}

long faultshim_count(void) { return count; }

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int below(const char *path) { return *root && strncmp(path, root, strlen(root)) == 0; }

static int ours(int fd)
{
    char link[40], path[PATH_MAX];
    if (!*root) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return below(path);
}

/* Returns the error to fail with; 0: make the call, then say `after`. Sets *torn for a write to halve. */
static int before(int counts, int *torn)
{
    *torn = 0;
    if (!counts || ++count != armed) return 0;
    if (mode == KILL_BEFORE) die();
    if (mode == TEAR) *torn = 1;
    return mode == FAIL_IO ? EIO : mode == FAIL_FULL ? ENOSPC : 0;
}

static void after(int counts)
{
    if (counts && count == armed && (mode == KILL_AFTER || mode == TEAR)) die();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* A call without bytes to halve: torn is as good as killed before. */
#define CALL(type, name, args, pass, counts)                                    \
    type name args                                                              \
    {                                                                           \
        int is = (counts), torn, fault = before(is, &torn);                     \
        if (torn) die();                                                        \
        if (fault) { errno = fault; return -1; }                                \
        type result = REAL(name) pass;                                          \
        int saved = errno;                                                      \
        after(is);                                                              \
        errno = saved;                                                          \
        return result;                                                          \
    }

#define WRITE(name, args, pass, half)                                           \
    ssize_t name args                                                           \
    {                                                                           \
        int is = ours(fd), torn, fault = before(is, &torn);                     \
        if (fault) { errno = fault; return -1; }                                \
        ssize_t result = torn ? half : REAL(name) pass;                         \
        int saved = errno;                                                      \
        after(is);                                                              \
        errno = saved;                                                          \
        return result;                                                          \
    }

/* posix_fallocate returns its error. */
#define ALLOCATE(name, offset_type)                                             \
    int name(int fd, offset_type offset, offset_type size)                      \
    {                                                                           \
        int is = ours(fd), torn, fault = before(is, &torn);                     \
        if (torn) die();                                                        \
        if (fault) return fault;                                                \
        int result = REAL(name)(fd, offset, size);                              \
        after(is);                                                              \
        return result;                                                          \
    }

int posix_fallocate(int fd, off_t offset, off_t size);
int posix_fallocate64(int fd, off64_t offset, off64_t size);

WRITE(write, (int fd, const void *b, size_t n), (fd, b, n), REAL(write)(fd, b, n / 2))
WRITE(pwrite, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), REAL(pwrite)(fd, b, n / 2, o))
WRITE(pwrite64, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), REAL(pwrite64)(fd, b, n / 2, o))
WRITE(writev, (int fd, const struct iovec *v, int n), (fd, v, n), REAL(write)(fd, v->iov_base, v->iov_len / 2))
WRITE(pwritev, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o),
      REAL(pwrite)(fd, v->iov_base, v->iov_len / 2, o))
WRITE(pwritev64, (int fd, const struct iovec *v, int n, off64_t o), (fd, v, n, o),
      REAL(pwrite64)(fd, v->iov_base, v->iov_len / 2, o))
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)
CALL(int, fsync, (int fd), (fd), ours(fd))
CALL(int, fdatasync, (int fd), (fd), ours(fd))
CALL(int, ftruncate, (int fd, off_t n), (fd, n), ours(fd))
CALL(int, ftruncate64, (int fd, off64_t n), (fd, n), ours(fd))
CALL(int, msync, (void *at, size_t n, int flags), (at, n, flags), *root != 0)
CALL(int, rename, (const char *from, const char *to), (from, to), below(to))
CALL(int, unlink, (const char *path), (path), below(path))
CALL(int, mkdir, (const char *path, mode_t bits), (path, bits), below(path))
