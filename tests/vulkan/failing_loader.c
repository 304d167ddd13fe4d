/* Stands before the real libvulkan.so.1: one function of the driver fails as the environment says.
 *   OFA_FAILING_CALL=vkQueueSubmit OFA_FAILING_RESULT=-4 OFA_REAL_LOADER=/path/libvulkan.so.1 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef void *(*lookup)(void *, const char *);

static lookup real_instance, real_device;

/* Called with whatever arguments the function has; C's conventions here let it ignore them. */
static int fail(void) { return atoi(getenv("OFA_FAILING_RESULT")); }

static void *device_function(void *device, const char *name) {
    return strcmp(name, getenv("OFA_FAILING_CALL")) == 0 ? (void *)fail : real_device(device, name);
}

void *vkGetInstanceProcAddr(void *instance, const char *name) {
    if (real_instance == NULL)
        real_instance = (lookup)dlsym(dlopen(getenv("OFA_REAL_LOADER"), RTLD_NOW | RTLD_LOCAL),
                                      "vkGetInstanceProcAddr");
    if (strcmp(name, getenv("OFA_FAILING_CALL")) == 0) return (void *)fail;
    void *found = real_instance(instance, name);
    if (strcmp(name, "vkGetDeviceProcAddr") != 0) return found;
    real_device = (lookup)found;
    return (void *)device_function;
}
