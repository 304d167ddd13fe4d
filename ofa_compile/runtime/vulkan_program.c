/* gpu_program.h through Vulkan: memory, pipelines, and one recorded command buffer. */
#include "gpu_program.h"

#include <stdlib.h>
#include <string.h>

#include "ofa_call.h"
#include "ofa_network.h"
#include "vulkan_cache.h"
#include "vulkan_device.h"

typedef struct {
    const gpu_network *network;
    uint32_t num_steps;
    size_t input_bytes, output_bytes, arena_bytes, output_offset;
    vulkan_buffer weights, arena;
    vulkan_buffer host; /* the input, then the output, as the host sees them */
    VkDescriptorSetLayout set_layouts[GPU_MAX_ARGUMENTS + 1]; /* by number of arguments */
    VkPipelineLayout layouts[GPU_MAX_ARGUMENTS + 1];
    VkPipelineCache cache;
    VkPipeline *pipelines; /* by kernel */
    VkDescriptorPool pool;
    VkDescriptorSet *sets; /* by step */
    VkCommandBuffer commands, timed_commands; /* the latter recorded when first wanted */
    VkQueryPool queries;
} vulkan_program;

struct gpu_program {
    vulkan_device device;
    vulkan_program program;
};

static void measure(vulkan_program *p) {
    p->network = &OFA_GPU_NETWORK;
    p->num_steps = (uint32_t)OFA_NETWORK.num_steps;
    p->input_bytes = ofa_input_bytes(&OFA_NETWORK);
    p->output_bytes = ofa_output_bytes(&OFA_NETWORK);
    p->arena_bytes = OFA_NETWORK.arena_bytes;
    p->output_offset = OFA_NETWORK.output_offset;
}

static uint32_t num_arguments(const vulkan_program *p, uint32_t step) {
    const gpu_network *n = p->network;
    return n->kernels[n->steps[step].kernel].head->num_arguments;
}

/* The code generator stays within what every device offers but for these two. */
static int check_limits(const vulkan_program *p, const vulkan_device *d) {
    const VkPhysicalDeviceLimits *limits = &d->properties.limits;
    for (uint32_t i = 0; i < p->num_steps; ++i) {
        uint32_t count = num_arguments(p, i);
        if (count > limits->maxPerStageDescriptorStorageBuffers || count > GPU_MAX_ARGUMENTS)
            return GPU_UNSUITABLE;
        for (uint32_t a = 0; a < count; ++a)
            if (p->network->steps[i].arguments[a].bytes > limits->maxStorageBufferRange)
                return GPU_UNSUITABLE;
    }
    return 0;
}

static int create_memory(vulkan_program *p, vulkan_device *d) {
    const gpu_network *n = p->network;
    int code = vulkan_create_buffer(d, n->weights_bytes, false, &p->weights);
    if (code == 0) code = vulkan_create_buffer(d, p->arena_bytes, false, &p->arena);
    if (code == 0) {
        size_t bytes = gpu_round_up(p->input_bytes) + p->output_bytes;
        code = vulkan_create_buffer(d, bytes, true, &p->host);
    }
    return code != 0 ? code : vulkan_upload(d, &p->weights, n->weights, n->weights_bytes);
}

static int create_layout(vulkan_program *p, vulkan_device *d, uint32_t count) {
    if (p->layouts[count] != 0) return 0;
    VkDescriptorSetLayoutBinding bindings[GPU_MAX_ARGUMENTS];
    for (uint32_t i = 0; i < count; ++i)
        bindings[i] = (VkDescriptorSetLayoutBinding){
            .binding = i,
            .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
            .descriptorCount = 1,
            .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    VkDescriptorSetLayoutCreateInfo set = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
        .bindingCount = count,
        .pBindings = bindings};
    VkResult result =
        d->vk.CreateDescriptorSetLayout(d->device, &set, NULL, &p->set_layouts[count]);
    int code = vulkan_check(result, "CreateDescriptorSetLayout");
    if (code != 0) return code;
    VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                         .setLayoutCount = 1,
                                         .pSetLayouts = &p->set_layouts[count]};
    result = d->vk.CreatePipelineLayout(d->device, &layout, NULL, &p->layouts[count]);
    return vulkan_check(result, "CreatePipelineLayout");
}

static int create_pipeline(vulkan_program *p, vulkan_device *d, uint32_t number) {
    const gpu_kernel *kernel = &p->network->kernels[number];
    uint32_t count = kernel->head->num_arguments;
    int code = create_layout(p, d, count);
    if (code != 0) return code;
    VkShaderModule module;
    VkShaderModuleCreateInfo code_info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO,
        .codeSize = kernel->bytes,
        .pCode = (const uint32_t *)(const void *)(kernel->head + 1)};
    VkResult result = d->vk.CreateShaderModule(d->device, &code_info, NULL, &module);
    code = vulkan_check(result, "CreateShaderModule");
    if (code != 0) return code;
    VkComputePipelineCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                  .module = module,
                  .pName = "main"},
        .layout = p->layouts[count]};
    result =
        d->vk.CreateComputePipelines(d->device, p->cache, 1, &info, NULL, &p->pipelines[number]);
    code = vulkan_check(result, "CreateComputePipelines");
    d->vk.DestroyShaderModule(d->device, module, NULL);
    return code;
}

static int create_pipelines(vulkan_program *p, vulkan_device *d) {
    int code = vulkan_cache_load(d, OFA_NETWORK.version, &p->cache);
    for (uint32_t i = 0; code == 0 && i < p->network->num_kernels; ++i)
        code = create_pipeline(p, d, i);
    if (code == 0) vulkan_cache_store(d, OFA_NETWORK.version, p->cache);
    return code;
}

static int create_pool(vulkan_program *p, vulkan_device *d) {
    VkDescriptorPoolSize size = {.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER};
    for (uint32_t i = 0; i < p->num_steps; ++i) size.descriptorCount += num_arguments(p, i);
    VkDescriptorPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                       .maxSets = p->num_steps,
                                       .poolSizeCount = 1,
                                       .pPoolSizes = &size};
    VkResult result = d->vk.CreateDescriptorPool(d->device, &info, NULL, &p->pool);
    return vulkan_check(result, "CreateDescriptorPool");
}

/* Bind a step's buffers once and for all. */
static int create_set(vulkan_program *p, vulkan_device *d, uint32_t step) {
    uint32_t count = num_arguments(p, step);
    VkDescriptorSetAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                        .descriptorPool = p->pool,
                                        .descriptorSetCount = 1,
                                        .pSetLayouts = &p->set_layouts[count]};
    VkResult result = d->vk.AllocateDescriptorSets(d->device, &info, &p->sets[step]);
    int code = vulkan_check(result, "AllocateDescriptorSets");
    if (code != 0) return code;
    VkDescriptorBufferInfo buffers[GPU_MAX_ARGUMENTS];
    VkWriteDescriptorSet writes[GPU_MAX_ARGUMENTS];
    for (uint32_t i = 0; i < count; ++i) {
        const gpu_argument *argument = &p->network->steps[step].arguments[i];
        buffers[i] = (VkDescriptorBufferInfo){
            .buffer = argument->is_weight ? p->weights.buffer : p->arena.buffer,
            .offset = argument->offset,
            .range = argument->bytes};
        writes[i] = (VkWriteDescriptorSet){.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                           .dstSet = p->sets[step],
                                           .dstBinding = i,
                                           .descriptorCount = 1,
                                           .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                           .pBufferInfo = &buffers[i]};
    }
    d->vk.UpdateDescriptorSets(d->device, count, writes, 0, NULL);
    return 0;
}

static void record_step(vulkan_program *p, vulkan_device *d, VkCommandBuffer commands,
                        uint32_t number) {
    const gpu_step *step = &p->network->steps[number];
    const gpu_kernel_head *head = p->network->kernels[step->kernel].head;
    if (step->waits)
        vulkan_barrier(d, commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                       VK_ACCESS_SHADER_WRITE_BIT, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                       VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT);
    d->vk.CmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, p->pipelines[step->kernel]);
    d->vk.CmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE,
                                p->layouts[head->num_arguments], 0, 1, &p->sets[number], 0,
                                NULL);
    d->vk.CmdDispatch(commands, head->grid[0], head->grid[1], head->grid[2]);
}

/* Record a whole run: input up, all steps, output down. */
static int record(vulkan_program *p, vulkan_device *d, VkCommandBuffer commands,
                  VkQueryPool queries) {
    int code = vulkan_begin(d, commands, 0);
    if (code != 0) return code;
    if (queries != 0) d->vk.CmdResetQueryPool(commands, queries, 0, p->num_steps + 1);
    VkBufferCopy up = {.dstOffset = p->network->input_offset, .size = p->input_bytes};
    d->vk.CmdCopyBuffer(commands, p->host.buffer, p->arena.buffer, 1, &up);
    vulkan_barrier(d, commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT,
                   VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT,
                   VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT);
    if (queries != 0)
        d->vk.CmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries, 0);
    for (uint32_t i = 0; i < p->num_steps; ++i) {
        record_step(p, d, commands, i);
        if (queries != 0)
            d->vk.CmdWriteTimestamp(commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries,
                                    i + 1);
    }
    vulkan_barrier(d, commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_ACCESS_SHADER_WRITE_BIT,
                   VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_READ_BIT);
    VkBufferCopy down = {.srcOffset = p->output_offset,
                         .dstOffset = gpu_round_up(p->input_bytes),
                         .size = p->output_bytes};
    d->vk.CmdCopyBuffer(commands, p->arena.buffer, p->host.buffer, 1, &down);
    vulkan_barrier(d, commands, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT,
                   VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
    return vulkan_end(d, commands);
}

static void destroy(vulkan_program *p, vulkan_device *d) {
    if (d->device != NULL) {
        d->vk.DeviceWaitIdle(d->device);
        if (p->queries != 0) d->vk.DestroyQueryPool(d->device, p->queries, NULL);
        if (p->pool != 0) d->vk.DestroyDescriptorPool(d->device, p->pool, NULL);
        for (uint32_t i = 0; p->pipelines != NULL && i < p->network->num_kernels; ++i)
            if (p->pipelines[i] != 0) d->vk.DestroyPipeline(d->device, p->pipelines[i], NULL);
        if (p->cache != 0) d->vk.DestroyPipelineCache(d->device, p->cache, NULL);
        for (uint32_t i = 0; i <= GPU_MAX_ARGUMENTS; ++i) {
            if (p->layouts[i] != 0) d->vk.DestroyPipelineLayout(d->device, p->layouts[i], NULL);
            if (p->set_layouts[i] != 0)
                d->vk.DestroyDescriptorSetLayout(d->device, p->set_layouts[i], NULL);
        }
        vulkan_destroy_buffer(d, &p->host);
        vulkan_destroy_buffer(d, &p->arena);
        vulkan_destroy_buffer(d, &p->weights);
    }
    free(p->pipelines);
    free(p->sets);
    memset(p, 0, sizeof *p);
}

static int create(vulkan_program *p, vulkan_device *d) {
    memset(p, 0, sizeof *p);
    measure(p);
    int code = check_limits(p, d);
    p->pipelines = calloc(p->network->num_kernels, sizeof *p->pipelines);
    p->sets = calloc(p->num_steps, sizeof *p->sets);
    if (code == 0 && (p->pipelines == NULL || p->sets == NULL)) code = GPU_OUT_OF_MEMORY;
    if (code == 0) code = create_memory(p, d);
    if (code == 0) code = create_pipelines(p, d);
    if (code == 0) code = create_pool(p, d);
    for (uint32_t i = 0; code == 0 && i < p->num_steps; ++i) code = create_set(p, d, i);
    if (code == 0) code = vulkan_allocate_commands(d, &p->commands);
    if (code == 0) code = record(p, d, p->commands, 0);
    if (code != 0 && code != GPU_HUNG) destroy(p, d);
    return code;
}

/* Record the run that writes a time stamp behind every step. */
static int prepare_timed(vulkan_program *p, vulkan_device *d) {
    if (p->timed_commands != NULL) return 0;
    if (d->timestamp_bits == 0) return GPU_NO_TIMESTAMPS;
    int code = 0;
    if (p->queries == 0) {
        VkQueryPoolCreateInfo info = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                      .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                      .queryCount = p->num_steps + 1};
        VkResult result = d->vk.CreateQueryPool(d->device, &info, NULL, &p->queries);
        code = vulkan_check(result, "CreateQueryPool");
    }
    VkCommandBuffer commands;
    if (code == 0) code = vulkan_allocate_commands(d, &commands);
    if (code != 0) return code;
    code = record(p, d, commands, p->queries);
    if (code == 0)
        p->timed_commands = commands;
    else
        d->vk.FreeCommandBuffers(d->device, d->commands, 1, &commands);
    return code;
}

static int read_times(vulkan_program *p, vulkan_device *d, double *milliseconds) {
    uint32_t count = p->num_steps + 1;
    uint64_t *stamps = calloc(count, sizeof *stamps);
    if (stamps == NULL) return GPU_OUT_OF_MEMORY;
    VkResult result = d->vk.GetQueryPoolResults(
        d->device, p->queries, 0, count, count * sizeof *stamps, stamps, sizeof *stamps,
        VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT);
    int code = vulkan_check(result, "GetQueryPoolResults");
    uint64_t mask = d->timestamp_bits >= 64 ? ~UINT64_C(0)
                                            : (UINT64_C(1) << d->timestamp_bits) - 1;
    for (uint32_t i = 0; code == 0 && i < p->num_steps; ++i) {
        /* Counters of fewer bits wrap around. */
        uint64_t ticks = (stamps[i + 1] - stamps[i]) & mask;
        milliseconds[i] = (double)ticks * (double)d->properties.limits.timestampPeriod * 1e-6;
    }
    free(stamps);
    return code;
}

int gpu_program_open(gpu_program **program) {
    gpu_program *opened = calloc(1, sizeof *opened);
    if (opened == NULL) return GPU_OUT_OF_MEMORY;
    int code = vulkan_open(&opened->device, getenv("OFA_VULKAN_DEVICE"),
                           OFA_GPU_NETWORK.needs_halves != 0);
    if (code == 0) {
        code = create(&opened->program, &opened->device);
        if (code == GPU_HUNG) return code; /* To close what hangs may take for ever. */
        if (code != 0) vulkan_close(&opened->device);
    }
    if (code == 0)
        *program = opened;
    else
        free(opened);
    return code;
}

void gpu_program_close(gpu_program *program) {
    destroy(&program->program, &program->device);
    vulkan_close(&program->device);
    free(program);
}

int gpu_program_run(gpu_program *program, const float *input, float *output,
                    double *step_milliseconds) {
    vulkan_program *p = &program->program;
    vulkan_device *d = &program->device;
    int code = step_milliseconds != NULL ? prepare_timed(p, d) : 0;
    if (code != 0) return code;
    memcpy(p->host.mapped, input, p->input_bytes);
    code = vulkan_submit(d, step_milliseconds != NULL ? p->timed_commands : p->commands);
    if (code == 0 && step_milliseconds != NULL) code = read_times(p, d, step_milliseconds);
    if (code == 0)
        memcpy(output, (unsigned char *)p->host.mapped + gpu_round_up(p->input_bytes),
               p->output_bytes);
    return code;
}

int gpu_program_time(gpu_program *program, double *milliseconds) {
    vulkan_program *p = &program->program;
    vulkan_device *d = &program->device;
    double *steps = calloc(p->num_steps, sizeof *steps);
    int code = steps == NULL ? GPU_OUT_OF_MEMORY : prepare_timed(p, d);
    if (code == 0) code = vulkan_submit(d, p->timed_commands);
    if (code == 0) code = read_times(p, d, steps);
    *milliseconds = 0;
    for (uint32_t i = 0; code == 0 && i < p->num_steps; ++i) *milliseconds += steps[i];
    free(steps);
    return code;
}

const char *gpu_program_explain(int code) { return vulkan_explain(code); }
