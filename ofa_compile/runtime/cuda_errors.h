/* What CUDA's results mean to whoever runs a network, and what to do about it: the only place that
 * says so. Python reads the two tables as well (hardware/cuda_errors.py): a text is one or more string
 * literals, and nothing else may stand between the brackets. */
#ifndef OFA_CUDA_ERRORS_H
#define OFA_CUDA_ERRORS_H

/* T(code of gpu_error.h, what is wrong, what to do). */
#define OFA_CUDA_TEXTS(T)                                                                        \
    T(GPU_NO_DRIVER, "no CUDA driver here: libcuda.so.1 cannot be loaded, or is an empty stub",  \
      "install NVIDIA's driver (Debian: sudo apt-get install nvidia-driver), and in a "          \
      "container pass the GPU through (--gpus all)")                                             \
    T(GPU_NO_DEVICE, "the CUDA driver finds no device",                                          \
      "does nvidia-smi show one, may this user open /dev/nvidia*, and does "                     \
      "CUDA_VISIBLE_DEVICES hide it?")                                                           \
    T(GPU_UNKNOWN_DEVICE, "OFA_CUDA_DEVICE names no device of this machine",                     \
      "give a part of a name that nvidia-smi -L shows, or a number, 0 for the fastest unless "   \
      "CUDA_DEVICE_ORDER says otherwise")                                                        \
    T(GPU_UNSUITABLE, "the CUDA device's limits are too small for this network",                 \
      "choose another device with OFA_CUDA_DEVICE, or compile for a smaller batch or resolution")\
    T(GPU_OUT_OF_MEMORY, "the CUDA device is out of memory",                                     \
      "close other programs that nvidia-smi shows, or compile for a smaller batch or "           \
      "resolution")                                                                              \
    T(GPU_DEVICE_LOST, "the CUDA device was lost, by a fault or a reset",                        \
      "start this program anew, and if that does not help look for Xid lines in dmesg")          \
    T(GPU_FAILED, "the CUDA driver failed",                                                      \
      "update NVIDIA's driver (Debian: nvidia-driver), or choose another device with "           \
      "OFA_CUDA_DEVICE")                                                                         \
    T(GPU_NO_TIMESTAMPS, "the CUDA device cannot time single kernels", "choose another device")  \
    T(GPU_OLD_DRIVER, "the CUDA driver is too old for this bundle",                              \
      "install a newer one, or build the bundle with an older CUDA toolkit")                     \
    T(GPU_NO_CODE, "the bundle has no machine code that this GPU's driver takes",                \
      "add the GPU's architecture to toolchain.gpu_architectures of the target's file and "      \
      "compile again")                                                                           \
    T(GPU_BROKEN_DRIVER,                                                                         \
      "CUDA cannot start here: the driver's library and its kernel module do not match, or are " \
      "not ready",                                                                               \
      "does nvidia-smi work? Otherwise reboot, or install NVIDIA's driver again; where there is "\
      "an NVSwitch, nvidia-fabricmanager must run")                                              \
    T(GPU_BUSY,                                                                                  \
      "the CUDA device is taken: another process has it to itself, or its compute mode "         \
      "prohibits all use",                                                                       \
      "close other programs that nvidia-smi shows, or choose another device with "               \
      "OFA_CUDA_DEVICE")                                                                         \
    T(GPU_HUNG, "the CUDA device does not answer",                                               \
      "end this program, and look for Xid lines in dmesg; a run that needs longer may have it "  \
      "(OFA_GPU_TIMEOUT_S, in seconds)")                                                         \
    T(GPU_NOT_STARTED, "CUDA cannot start here, for a reason that the driver does not name",     \
      "the kernel's module nvidia_uvm may be missing or stuck, as after a suspend (sudo "        \
      "modprobe -r nvidia_uvm; sudo modprobe nvidia_uvm), or /dev/nvidia-uvm in a container "    \
      "(on the host: sudo nvidia-modprobe -u -c 0; then start the container anew); otherwise "   \
      "reboot")                                                                                  \
    T(GPU_FORKED, "CUDA cannot be used here: the process was forked from one that used it",      \
      "start processes anew (in Python: multiprocessing's \"spawn\"), or use the GPU in the "    \
      "children only")                                                                           \
    T(GPU_KERNEL_FAULT, "a kernel did what the CUDA device forbids",                             \
      "start this program anew; if it happens again report it as a bug, with the bundle's "      \
      "manifest")                                                                                \
    T(GPU_CUT_OFF, "the driver cut a run off that took too long, as it does where a display "    \
      "hangs on the GPU",                                                                        \
      "compile for a smaller batch or resolution, or choose another device with "                \
      "OFA_CUDA_DEVICE")                                                                         \
    T(GPU_FAULTY, "the GPU reports a fault of its memory or its links",                          \
      "look for Xid lines in dmesg and at nvidia-smi -q -d ECC; reset the GPU or reboot, and "   \
      "if that does not help have it replaced")                                                  \
    T(GPU_NO_SERVER, "CUDA's Multi-Process Service (MPS) does not serve this process",           \
      "start it anew (echo quit | sudo nvidia-cuda-mps-control; sudo nvidia-cuda-mps-control "   \
      "-d), end some of its clients, or do without it")                                          \
    T(GPU_BAD_COMPAT, "CUDA's compatibility library (cuda-compat) does not serve this GPU",      \
      "take its folder out of LD_LIBRARY_PATH, or install a newer driver and remove it")         \
    T(GPU_NO_LICENCE, "the virtual GPU has no licence",                                          \
      "start the licence service of NVIDIA's vGPU (nvidia-gridd)")

/* R(CUresult, its name behind CUDA_ERROR_, code); of all others GPU_FAILED. */
#define OFA_CUDA_RESULTS(R)                                                                      \
    R(2, OUT_OF_MEMORY, GPU_OUT_OF_MEMORY)                                                       \
    R(3, NOT_INITIALIZED, GPU_FORKED)                                                            \
    R(34, STUB_LIBRARY, GPU_NO_DRIVER)                                                           \
    R(36, CALL_REQUIRES_NEWER_DRIVER, GPU_OLD_DRIVER)                                            \
    R(46, DEVICE_UNAVAILABLE, GPU_BUSY)                                                          \
    R(100, NO_DEVICE, GPU_NO_DEVICE)                                                             \
    R(101, INVALID_DEVICE, GPU_NO_DEVICE)                                                        \
    R(102, DEVICE_NOT_LICENSED, GPU_NO_LICENCE)                                                  \
    R(200, INVALID_IMAGE, GPU_NO_CODE)                                                           \
    R(201, INVALID_CONTEXT, GPU_DEVICE_LOST)                                                     \
    R(209, NO_BINARY_FOR_GPU, GPU_NO_CODE)                                                       \
    R(214, ECC_UNCORRECTABLE, GPU_FAULTY)                                                        \
    R(218, INVALID_PTX, GPU_NO_CODE)                                                             \
    R(220, NVLINK_UNCORRECTABLE, GPU_FAULTY)                                                     \
    R(221, JIT_COMPILER_NOT_FOUND, GPU_NO_CODE)                                                  \
    R(222, UNSUPPORTED_PTX_VERSION, GPU_OLD_DRIVER)                                              \
    R(223, JIT_COMPILATION_DISABLED, GPU_NO_CODE)                                                \
    R(226, CONTAINED, GPU_FAULTY)                                                                \
    R(700, ILLEGAL_ADDRESS, GPU_KERNEL_FAULT)                                                    \
    R(701, LAUNCH_OUT_OF_RESOURCES, GPU_UNSUITABLE)                                              \
    R(702, LAUNCH_TIMEOUT, GPU_CUT_OFF)                                                          \
    R(709, CONTEXT_IS_DESTROYED, GPU_DEVICE_LOST)                                                \
    R(710, ASSERT, GPU_KERNEL_FAULT)                                                             \
    R(714, HARDWARE_STACK_ERROR, GPU_KERNEL_FAULT)                                               \
    R(715, ILLEGAL_INSTRUCTION, GPU_KERNEL_FAULT)                                                \
    R(716, MISALIGNED_ADDRESS, GPU_KERNEL_FAULT)                                                 \
    R(717, INVALID_ADDRESS_SPACE, GPU_KERNEL_FAULT)                                              \
    R(718, INVALID_PC, GPU_KERNEL_FAULT)                                                         \
    R(719, LAUNCH_FAILED, GPU_KERNEL_FAULT)                                                      \
    R(802, SYSTEM_NOT_READY, GPU_BROKEN_DRIVER)                                                  \
    R(803, SYSTEM_DRIVER_MISMATCH, GPU_BROKEN_DRIVER)                                            \
    R(804, COMPAT_NOT_SUPPORTED_ON_DEVICE, GPU_BAD_COMPAT)                                       \
    R(805, MPS_CONNECTION_FAILED, GPU_NO_SERVER)                                                 \
    R(806, MPS_RPC_FAILURE, GPU_NO_SERVER)                                                       \
    R(807, MPS_SERVER_NOT_READY, GPU_NO_SERVER)                                                  \
    R(808, MPS_MAX_CLIENTS_REACHED, GPU_NO_SERVER)                                               \
    R(809, MPS_MAX_CONNECTIONS_REACHED, GPU_NO_SERVER)                                           \
    R(810, MPS_CLIENT_TERMINATED, GPU_NO_SERVER)                                                 \
    R(911, EXTERNAL_DEVICE, GPU_DEVICE_LOST)                                                     \
    R(999, UNKNOWN, GPU_DEVICE_LOST)

/* CUDA 11.4: cuGraphInstantiateWithFlags came with it. */
#define OFA_CUDA_OLDEST_DRIVER 11040

#endif
