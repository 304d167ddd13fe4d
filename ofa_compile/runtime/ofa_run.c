/* Executes the steps of a network one after the other. */
#include "ofa_network.h"

#include <string.h>

void ofa_network_run(const ofa_network *network, const float *input, float *output,
                     unsigned char *arena, ofa_pool *pool, double *step_milliseconds) {
    int threads = ofa_pool_threads(pool);
    double start = step_milliseconds != NULL ? ofa_now_ms() : 0;
    for (int32_t i = 0; i < network->num_steps; i++) {
        const ofa_step *step = &network->steps[i];
        if (threads > 1 && step->num_tiles > step->grain)
            ofa_pool_run(pool, step, input, arena);
        else
            step->run(input, arena, 0, step->num_tiles);
        if (step_milliseconds != NULL) {
            double end = ofa_now_ms();
            step_milliseconds[i] = end - start;
            start = end;
        }
    }
    if (threads > 1) ofa_pool_rest(pool);
    size_t count = (size_t)(network->output_shape[0] * network->output_shape[1]);
    memcpy(output, arena + network->output_offset, count * sizeof(float));
}
