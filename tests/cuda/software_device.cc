#include "software_device.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>

namespace {

// Never destroyed: the thread may outlive all else, where a kernel never ends.
struct Device {
    std::mutex lock;
    std::condition_variable changed;
    Work queue;
    bool is_busy = false, has_thread = false;
    CUresult fault = CUDA_SUCCESS;
};
Device &device = *new Device;

size_t page() { return size_t(sysconf(_SC_PAGESIZE)); }
size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Threads of a workgroup that wait for each other are fibers.
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(256 << 10);
    bool is_done;
};

std::vector<Fiber> &fibers = *new std::vector<Fiber>;
ucontext_t scheduler;
Fiber *running;
const SoftwareKernel *current;
void **parameters;

void wait() { swapcontext(&running->context, &scheduler); }

void run_fiber() {
    current->call(parameters);
    running->is_done = true;
}

void start(Fiber &fiber) {
    fiber.is_done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, run_fiber, 0);
}

Coordinates coordinates(unsigned i, const Coordinates &size) {
    return {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
}

// Every round runs each thread up to its next barrier.
void run_together(const Coordinates &size, unsigned count, bool is_backwards) {
    if (fibers.size() < count) fibers.resize(count);
    for (unsigned i = 0; i < count; ++i) start(fibers[i]);
    for (unsigned done = 0; done < count;) {
        done = 0;
        for (unsigned turn = 0; turn < count; ++turn) {
            unsigned i = is_backwards ? count - 1 - turn : turn;
            running = &fibers[i];
            if (!running->is_done) {
                current->place->thread = coordinates(i, size);
                swapcontext(&scheduler, &running->context);
            }
            done += running->is_done;
        }
    }
}

void run_apart(const Coordinates &size, unsigned count, bool is_backwards) {
    for (unsigned turn = 0; turn < count; ++turn) {
        current->place->thread = coordinates(is_backwards ? count - 1 - turn : turn, size);
        current->call(parameters);
    }
}

// What a kernel may not touch brings it down, and nothing else.
sigjmp_buf before_kernel;
pthread_t kernel_thread;

void on_fault(int number) {
    if (pthread_equal(pthread_self(), kernel_thread)) siglongjmp(before_kernel, 1);
    signal(number, SIG_DFL);
}

CUresult run_guarded(const std::function<CUresult()> &run) {
    struct sigaction action = {}, old[2];
    action.sa_handler = on_fault;
    kernel_thread = pthread_self();
    sigaction(SIGSEGV, &action, &old[0]);
    sigaction(SIGBUS, &action, &old[1]);
    volatile CUresult result = ILLEGAL_ADDRESS;
    if (sigsetjmp(before_kernel, 1) == 0) result = run();
    sigaction(SIGSEGV, &old[0], nullptr);
    sigaction(SIGBUS, &old[1], nullptr);
    return result;
}

void *serve(void *) {
    std::unique_lock<std::mutex> hold(device.lock);
    for (;;) {
        device.changed.wait(hold, [] { return !device.queue.empty(); });
        Work work;
        work.swap(device.queue);
        hold.unlock();
        CUresult fault = CUDA_SUCCESS;
        for (auto &step : work)
            if ((fault = run_guarded(step.run)) != CUDA_SUCCESS) break;
        hold.lock();
        if (fault != CUDA_SUCCESS) device.fault = fault;
        device.is_busy = !device.queue.empty();
        device.changed.notify_all();
    }
    return nullptr;
}

}  // namespace

void *device_allocate(size_t bytes) {
    size_t size = round_up(bytes, page()) + page();
    void *start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    char *end = static_cast<char *>(start) + size - page();
    mprotect(end, page(), PROT_NONE);
    void *memory = end - round_up(bytes, 256);
    std::memset(memory, 0xff, bytes);  // as NaN: what is read before it is written shows
    return memory;
}

void device_free(void *memory, size_t bytes) {
    char *end = static_cast<char *>(memory) + round_up(bytes, 256);
    munmap(end - round_up(bytes, page()), round_up(bytes, page()) + page());
}

void device_start(Work work) {
    std::lock_guard<std::mutex> hold(device.lock);
    if (!device.has_thread) {
        pthread_t thread;
        device.has_thread = pthread_create(&thread, nullptr, serve, nullptr) == 0;
        pthread_detach(thread);
    }
    for (auto &step : work) device.queue.push_back(std::move(step));
    device.is_busy = true;
    device.changed.notify_all();
}

CUresult device_result() {
    std::unique_lock<std::mutex> hold(device.lock);
    device.changed.wait_for(hold, std::chrono::milliseconds(1), [] { return !device.is_busy; });
    return device.is_busy ? CUresult(CUDA_ERROR_NOT_READY) : device.fault;
}

CUresult device_fault() {
    std::lock_guard<std::mutex> hold(device.lock);
    return device.fault;
}

void device_finish() {
    std::unique_lock<std::mutex> hold(device.lock);
    device.changed.wait(hold, [] { return !device.is_busy; });
}

void device_reset() {
    std::lock_guard<std::mutex> hold(device.lock);
    device.fault = CUDA_SUCCESS;
}

// Every second workgroup runs its threads from the last to the first: what should have waited for
// another thread shows in one of two runs.
CUresult run_grid(const SoftwareKernel *kernel, Coordinates grid, Coordinates threads,
                  std::vector<CUdeviceptr> arguments) {
    std::vector<void *> pointers;
    for (CUdeviceptr &argument : arguments) pointers.push_back(&argument);
    current = kernel;
    parameters = pointers.data();
    Place &place = *kernel->place;
    place.threads = threads;
    place.wait = wait;
    const unsigned count = threads.x * threads.y * threads.z;
    static bool is_backwards;
    for (place.block.z = 0; place.block.z < grid.z; ++place.block.z)
        for (place.block.y = 0; place.block.y < grid.y; ++place.block.y)
            for (place.block.x = 0; place.block.x < grid.x; ++place.block.x) {
                auto run = kernel->waits ? run_together : run_apart;
                run(threads, count, is_backwards);
                is_backwards = !is_backwards;
            }
    return CUDA_SUCCESS;
}
