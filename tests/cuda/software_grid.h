/* Runs the kernel above: included behind its text, which defined OFA_KERNEL as its name. */
namespace {

template <class... Parameters, std::size_t... I>
void call(void (*kernel)(Parameters...), void **values, std::index_sequence<I...>) {
    kernel(*static_cast<Parameters *>(values[I])...);
}

template <class... Parameters>
void call(void (*kernel)(Parameters...), void **values) {
    call(kernel, values, std::index_sequence_for<Parameters...>());
}

template <class... Parameters>
constexpr unsigned count(void (*)(Parameters...)) {
    return sizeof...(Parameters);
}

constexpr std::size_t kStackBytes = 256 << 10;

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(kStackBytes);
    Coordinates place;
    bool is_done;
};

std::vector<Fiber> fibers;
ucontext_t scheduler;
Fiber *running;
void **parameters;

void run_fiber() {
    call(OFA_KERNEL, parameters);
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

/* Every round runs each thread up to its next barrier. */
void run_together() {
    for (Fiber &fiber : fibers) start(fiber);
    for (std::size_t done = 0; done < fibers.size();) {
        done = 0;
        for (Fiber &fiber : fibers) {
            if (!fiber.is_done) {
                running = &fiber;
                threadIdx = fiber.place;
                swapcontext(&scheduler, &fiber.context);
            }
            done += fiber.is_done;
        }
    }
}

}  // namespace

static void __syncthreads() { swapcontext(&running->context, &scheduler); }

extern "C" const unsigned ofa_software_arguments = count(OFA_KERNEL);

extern "C" void ofa_software_launch(const unsigned *grid, const unsigned *block, void **values) {
    parameters = values;
    blockDim = {block[0], block[1], block[2]};
    fibers.resize(OFA_HAS_BARRIER ? block[0] * block[1] * block[2] : 0);
    for (std::size_t i = 0; i < fibers.size(); ++i) {
        unsigned t = unsigned(i);
        fibers[i].place = {t % block[0], t / block[0] % block[1], t / (block[0] * block[1])};
    }
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x) {
                if (OFA_HAS_BARRIER) {
                    run_together();
                    continue;
                }
                for (threadIdx.z = 0; threadIdx.z < block[2]; ++threadIdx.z)
                    for (threadIdx.y = 0; threadIdx.y < block[1]; ++threadIdx.y)
                        for (threadIdx.x = 0; threadIdx.x < block[0]; ++threadIdx.x)
                            call(OFA_KERNEL, values);
            }
}
