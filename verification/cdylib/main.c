/* A C program whose threads are older than the library that it opens.
 *
 * Thread-locals of such a library are allocated when a thread first touches them, by malloc. A handler that does so,
 * on a thread that was interrupted inside malloc, waits for itself. So malloc ends this program, with status 77, when
 * a handler calls it.
 *
 *   main LIBRARY
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { THREADS = 4, SIGNALS = 1000, ALLOCATES = 77, WRONG = 1 };

/* The program's own thread-locals lie in each thread's first allocation: touching them allocates nothing. */
static __thread volatile int in_handler;
static __thread volatile char *touch_in_malloc;

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static void allocator_entered(void) {
    if (in_handler) {
        static const char text[] = "a handler entered malloc\n";
        if (write(2, text, sizeof text - 1)) {}
        _exit(ALLOCATES);
    }
    volatile char *closed = touch_in_malloc;
    if (closed) {
        touch_in_malloc = 0;
        *closed = 1;
    }
}

void *malloc(size_t size) { allocator_entered(); return __libc_malloc(size); }
void *calloc(size_t count, size_t size) { allocator_entered(); return __libc_calloc(count, size); }
void *realloc(void *old, size_t size) { allocator_entered(); return __libc_realloc(old, size); }
void *memalign(size_t align, size_t size) { allocator_entered(); return __libc_memalign(align, size); }
void *aligned_alloc(size_t align, size_t size) { allocator_entered(); return __libc_memalign(align, size); }
int posix_memalign(void **place, size_t align, size_t size) {
    allocator_entered();
    *place = __libc_memalign(align, size);
    return *place ? 0 : 12;
}
void free(void *old) { allocator_entered(); __libc_free(old); }

static void expect(int right, const char *what) {
    if (!right) {
        fprintf(stderr, "wrong: %s\n", what);
        _exit(WRONG);
    }
}

static int (*lookup)(uintptr_t);
static int (*enter)(uintptr_t);
static int expected;
static uintptr_t function;
static struct sigaction theirs[2];
static int answered, chained, caught;

static void on_question(int signum) {
    (void)signum;
    in_handler = 1;
    int registered = lookup(function), other = lookup((uintptr_t)&on_question);
    in_handler = 0;
    if (registered != expected || other != -1) {
        _exit(WRONG);
    }
    __atomic_fetch_add(&answered, 1, __ATOMIC_RELAXED);
}

/* Was there before the library: opens the page that was touched. */
static void previous(int signum, siginfo_t *info, void *context) {
    (void)signum, (void)context;
    uintptr_t page = (uintptr_t)info->si_addr & ~(uintptr_t)(sysconf(_SC_PAGESIZE) - 1);
    if (mprotect((void *)page, 1, PROT_READ | PROT_WRITE)) {
        _exit(WRONG);
    }
    __atomic_fetch_add(&chained, 1, __ATOMIC_RELAXED);
}

/* In front of the library's handler. */
static void in_front(int signum, siginfo_t *info, void *context) {
    in_handler = 1;
    theirs[signum == SIGILL].sa_sigaction(signum, info, context);
    in_handler = 0;
}

static void set_handler(int signum, void (*handler)(int, siginfo_t *, void *), struct sigaction *old) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    expect(sigaction(signum, &action, old) == 0, "sigaction");
}

static void fault_inside_malloc(void) {
    volatile char *closed = mmap(0, 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect(closed != MAP_FAILED, "mmap");
    touch_in_malloc = closed;
    free(malloc(100));
    expect(*closed == 1, "the fault was not handled");
}

static pthread_barrier_t born, opened, asked;

static void *thread(void *number) {
    int fault_first = (uintptr_t)number % 2;
    pthread_barrier_wait(&born);
    pthread_barrier_wait(&opened);
    /* Each kind of signal is the first ever on some thread. */
    if (fault_first) {
        fault_inside_malloc();
    }
    for (size_t size = 1; __atomic_load_n(&answered, __ATOMIC_RELAXED) < THREADS * SIGNALS; size++) {
        free(malloc(1 + size % 5000));
    }
    if (!fault_first) {
        fault_inside_malloc();
    }
    pthread_barrier_wait(&asked);
    for (int i = 0; i < 100; i++) {
        expect(enter(function) == expected, "a trap was not caught");
        __atomic_fetch_add(&caught, 1, __ATOMIC_RELAXED);
    }
    return 0;
}

int main(int count, char **arguments) {
    expect(count == 2, "usage: main LIBRARY");
    set_handler(SIGSEGV, previous, 0);
    signal(SIGUSR1, on_question);

    pthread_t threads[THREADS];
    pthread_barrier_init(&born, 0, THREADS + 1);
    pthread_barrier_init(&opened, 0, THREADS + 1);
    pthread_barrier_init(&asked, 0, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++) {
        expect(pthread_create(&threads[i], 0, thread, (void *)i) == 0, "pthread_create");
    }
    pthread_barrier_wait(&born);

    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return WRONG;
    }
    uintptr_t (*start)(void) = (uintptr_t (*)(void))dlsym(library, "library_start");
    int (*expects)(void) = (int (*)(void))dlsym(library, "library_expects");
    lookup = (int (*)(uintptr_t))dlsym(library, "library_lookup");
    enter = (int (*)(uintptr_t))dlsym(library, "library_enter");
    expect(start && expects && lookup && enter, "dlsym");
    function = start();
    expected = expects();
    set_handler(SIGSEGV, in_front, &theirs[0]);
    set_handler(SIGILL, in_front, &theirs[1]);
    pthread_barrier_wait(&opened);

    for (int i = 0; i < THREADS * SIGNALS; i++) {
        pthread_kill(threads[i % THREADS], SIGUSR1);
        /* Signals of one kind do not queue: the next one waits for its answer. */
        while (__atomic_load_n(&answered, __ATOMIC_RELAXED) <= i) {
            usleep(1);
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], 0);
    }
    expect(chained == THREADS, "a fault of the program's own was not passed on");
    printf("%d threads older than the library: %d signals answered, %d faults inside malloc passed on, %d traps caught\n",
           THREADS, answered, chained, caught);
    return 0;
}
