/* A library to be loaded before all others (LD_PRELOAD): it stands between a process and its files. It makes system
 * calls fail on demand, or writes down what was asked of the disk and in which order. It knows nothing of sessile.
 *
 * Only files whose path has SHIM_PATH in it, and not SHIM_NOT, are meant.
 *
 * Failing:
 *   SHIM_OPS    which calls: letters of w(rite) s(ync) t(runcate) r(ead) o(pen with creation) u(nlink, rename)
 *   SHIM_ERRNO  the error; 0: nothing fails, writes and reads are short
 *   SHIM_FROM   the first of these calls to fail, counted from 1
 *   SHIM_COUNT  how many of them fail; 0: all from there on
 *   SHIM_PPM    instead of these two: each fails with this probability, in millionths
 *   SHIM_SEED   the seed for that
 *   SHIM_PART   a write that fails has written this share first, in percent
 *   SHIM_MET    a file that gets a line for each call that fails
 *
 * Writing down:
 *   SHIM_LOG    a file that gets a record for each call that changes something, see `put`
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *path_part, *not_part, *ops = "";
static int error, log_fd = -1, met_fd = -1;
static uint64_t from, count, ppm, state, part, calls;

static uint64_t number(const char *name) {
    const char *s = getenv(name);
    return s ? strtoull(s, NULL, 10) : 0;
}

static int file(const char *name) {
    const char *s = getenv(name);
    return s ? (int)syscall(SYS_openat, AT_FDCWD, s, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
}

__attribute__((constructor)) static void begin(void) {
    path_part = getenv("SHIM_PATH");
    not_part = getenv("SHIM_NOT");
    if (getenv("SHIM_OPS")) ops = getenv("SHIM_OPS");
    error = (int)number("SHIM_ERRNO");
    from = number("SHIM_FROM");
    count = number("SHIM_COUNT");
    ppm = number("SHIM_PPM");
    state = number("SHIM_SEED");
    part = number("SHIM_PART");
    met_fd = file("SHIM_MET");
    log_fd = file("SHIM_LOG");
}

static int is_meant(const char *path) {
    return path_part && path && strstr(path, path_part) && !(not_part && strstr(path, not_part));
}

static int fd_is_meant(int fd) {
    char link[64], path[4096];
    if (!path_part) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return is_meant(path);
}

static uint64_t random_number(void) {
    uint64_t z = (state += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

/* Whether this call of kind `op` is one that fails. */
static int fails(char op) {
    if (!strchr(ops, op)) return 0;
    pthread_mutex_lock(&lock);
    uint64_t n = ++calls;
    int yes = ppm ? random_number() % 1000000 < ppm : from && n >= from && (!count || n < from + count);
    if (yes && met_fd >= 0) {
        char line[64];
        int len = snprintf(line, sizeof line, "%c %llu\n", op, (unsigned long long)n);
        if (syscall(SYS_write, met_fd, line, (size_t)len) < 0) abort();
    }
    pthread_mutex_unlock(&lock);
    return yes;
}

/* A record: kind, and little-endian as on the machine: inode, offset, length, then the bytes. */
static void put(char kind, uint64_t inode, uint64_t at, uint64_t len, const void *a, const void *b, size_t b_len) {
    struct __attribute__((packed)) { char kind; uint64_t inode, at, len; } head = {kind, inode, at, len};
    size_t a_len = (size_t)len - b_len;
    char *all = malloc(sizeof head + (size_t)len);
    if (!all) abort();
    memcpy(all, &head, sizeof head);
    if (a_len) memcpy(all + sizeof head, a, a_len);
    if (b_len) memcpy(all + sizeof head + a_len, b, b_len);
    /* One write, so that a process that is killed leaves whole records. */
    if (syscall(SYS_write, log_fd, all, sizeof head + (size_t)len) < 0) abort();
    free(all);
}

static uint64_t inode_of(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 ? (uint64_t)st.st_ino : 0;
}

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

static ssize_t do_write(int fd, const void *buf, size_t n, off64_t at, int positional) {
    ssize_t (*real_pwrite)(int, const void *, size_t, off64_t) = REAL(pwrite64);
    ssize_t (*real_write)(int, const void *, size_t) = REAL(write);
    if (!fd_is_meant(fd)) return positional ? real_pwrite(fd, buf, n, at) : real_write(fd, buf, n);
    int failing = fails('w');
    size_t wanted = n;
    if (failing && error) wanted = n * part / 100;
    if (failing && !error && n > 1) wanted = n / 2;
    if (log_fd >= 0) pthread_mutex_lock(&lock);
    uint64_t where = (uint64_t)(positional ? at : lseek64(fd, 0, SEEK_CUR));
    ssize_t done = wanted || !failing ? (positional ? real_pwrite(fd, buf, wanted, at) : real_write(fd, buf, wanted)) : 0;
    int saved = errno;
    if (log_fd >= 0) {
        if (done > 0) put('w', inode_of(fd), where, (uint64_t)done, buf, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    if (failing && error) {
        errno = error;
        return -1;
    }
    errno = saved;
    return done;
}

ssize_t write(int fd, const void *buf, size_t n) { return do_write(fd, buf, n, 0, 0); }
ssize_t pwrite(int fd, const void *buf, size_t n, off_t at) { return do_write(fd, buf, n, at, 1); }
ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t at) { return do_write(fd, buf, n, at, 1); }

static int read_fails(int fd, size_t *n) {
    if (!fd_is_meant(fd) || !fails('r')) return 0;
    if (!error) {
        if (*n > 1) *n /= 2;
        return 0;
    }
    errno = error;
    return 1;
}

ssize_t read(int fd, void *buf, size_t n) { return read_fails(fd, &n) ? -1 : REAL(read)(fd, buf, n); }
ssize_t pread(int fd, void *buf, size_t n, off_t at) { return read_fails(fd, &n) ? -1 : REAL(pread)(fd, buf, n, at); }
ssize_t pread64(int fd, void *buf, size_t n, off64_t at) {
    return read_fails(fd, &n) ? -1 : REAL(pread64)(fd, buf, n, at);
}

static int do_sync(int fd, int (*real)(int)) {
    if (!fd_is_meant(fd)) return real(fd);
    if (error && fails('s')) {
        /* What the disk has is unknown: here, nothing more than before. */
        errno = error;
        return -1;
    }
    if (log_fd < 0) return real(fd);
    /* Only what was asked for before it is durable after it. */
    pthread_mutex_lock(&lock);
    int done = real(fd);
    if (done == 0) put('s', inode_of(fd), 0, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int fsync(int fd) { return do_sync(fd, REAL(fsync)); }
int fdatasync(int fd) { return do_sync(fd, REAL(fdatasync)); }

static int do_truncate(int fd, off64_t len) {
    int (*real)(int, off64_t) = REAL(ftruncate64);
    if (!fd_is_meant(fd)) return real(fd, len);
    if (error && fails('t')) {
        errno = error;
        return -1;
    }
    if (log_fd < 0) return real(fd, len);
    pthread_mutex_lock(&lock);
    int done = real(fd, len);
    if (done == 0) put('t', inode_of(fd), (uint64_t)len, 0, NULL, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t len) { return do_truncate(fd, len); }
int ftruncate64(int fd, off64_t len) { return do_truncate(fd, len); }

static int do_open(int dir, const char *path, int flags, mode_t mode) {
    int (*real)(int, const char *, int, ...) = REAL(openat64);
    if (!(flags & O_CREAT) || !is_meant(path)) return real(dir, path, flags, mode);
    if (error && fails('o')) {
        errno = error;
        return -1;
    }
    if (log_fd < 0) return real(dir, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat st;
    int is_new = fstatat(dir, path, &st, 0) != 0;
    int fd = real(dir, path, flags, mode);
    if (fd >= 0 && is_new) put('c', inode_of(fd), 0, strlen(path), path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name, ...)                                   \
    int name(__VA_ARGS__, int flags, ...) {               \
        va_list more;                                     \
        va_start(more, flags);                            \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                     \
        return do_open(DIR_OF, path, flags, mode);        \
    }
#define DIR_OF AT_FDCWD
OPEN(open, const char *path)
OPEN(open64, const char *path)
#undef DIR_OF
#define DIR_OF dir
OPEN(openat, int dir, const char *path)
OPEN(openat64, int dir, const char *path)

int unlink(const char *path) {
    if (!is_meant(path)) return REAL(unlink)(path);
    if (error && fails('u')) {
        errno = error;
        return -1;
    }
    if (log_fd < 0) return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    int done = REAL(unlink)(path);
    if (done == 0) put('u', 0, 0, strlen(path), path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *old, const char *new) {
    if (!is_meant(old)) return REAL(rename)(old, new);
    if (error && fails('u')) {
        errno = error;
        return -1;
    }
    if (log_fd < 0) return REAL(rename)(old, new);
    pthread_mutex_lock(&lock);
    int done = REAL(rename)(old, new);
    if (done == 0) put('m', 0, strlen(old), strlen(old) + strlen(new), old, new, strlen(new));
    pthread_mutex_unlock(&lock);
    return done;
}
