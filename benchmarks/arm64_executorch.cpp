// ExecuTorch on one network, so many times, on the emulated machine. See bench_arm64_instructions.py.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

// Exported by the library, but its header does not come with the package.
namespace executorch::extension::threadpool {
class ThreadPool {
  public:
    bool _unsafe_reset_threadpool(uint32_t num_threads);
};
ThreadPool *get_threadpool();
} // namespace executorch::extension::threadpool

// arguments: PROGRAM SIZE REPEATS: runs on a constant image of SIZE pixels.
int main(int count, char **arguments) {
    if (count != 4)
        return 2;
    const int size = std::atoi(arguments[2]), repeats = std::atoi(arguments[3]);
    executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(1);
    executorch::extension::Module module(arguments[1]);
    std::vector<float> values(3 * size * size, 0.5f);
    auto image = executorch::extension::from_blob(values.data(), {1, 3, size, size});
    for (int i = 0; i < repeats; i++) {
        auto outputs = module.forward(image);
        if (!outputs.ok()) {
            std::fprintf(stderr, "forward: error %d\n", static_cast<int>(outputs.error()));
            return 1;
        }
        const float *logits = outputs->at(0).toTensor().const_data_ptr<float>();
        if (i + 1 == repeats)
            std::printf("%g %g %g\n", logits[0], logits[1], logits[2]);
    }
    return 0;
}
