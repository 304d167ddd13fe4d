/* C++, part of vulkan_tvm.cc: a device's memory, taken from the driver in blocks and lent in pieces.
 *
 * Drivers allow some thousands of allocations (4096 in all is the least), and each costs a call. A
 * piece is the smallest free one that is large enough; one that is given back joins its neighbours. */
#ifndef OFA_VULKAN_TVM_MEMORY_H
#define OFA_VULKAN_TVM_MEMORY_H

#include <algorithm>
#include <iterator>
#include <list>
#include <map>
#include <memory>

extern "C" {
#include "vulkan_device.h"
}

namespace ofa_vulkan {

constexpr size_t kBlockBytes = size_t(32) << 20;
/* The strictest alignment that a device may ask of storage buffers. */
constexpr size_t kAlignment = 256;

struct Block {
  vulkan_buffer vk{};
  size_t bytes = 0;
  std::map<size_t, size_t> free;  // offset -> bytes; no two of them touch
};

/* A piece of a block: what TVM takes for a pointer. */
struct Buffer {
  Block* block;
  size_t offset, bytes;
  bool is_host;

  VkBuffer handle() const { return block->vk.buffer; }
  char* mapped() const { return static_cast<char*>(block->vk.mapped) + offset; }
};

/* Memory of one kind: which the host sees, or not. Its user locks it. */
class Heap {
 public:
  Heap(vulkan_device* device, bool is_host) : device_(device), is_host_(is_host) {}

  /* Returns 0 and a piece, or a code. */
  int Allocate(size_t bytes, Buffer** buffer) {
    bytes = (std::max<size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
    Block* block = nullptr;
    size_t offset = 0, smallest = SIZE_MAX;
    for (Block& candidate : blocks_)
      for (auto [start, size] : candidate.free)
        if (size >= bytes && size < smallest) {
          block = &candidate;
          offset = start;
          smallest = size;
        }
    if (block == nullptr) {
      int code = Grow(bytes);
      if (code != 0) return code;
      block = &blocks_.back();
    }
    size_t left = block->free[offset] - bytes;
    block->free.erase(offset);
    if (left > 0) block->free[offset + bytes] = left;
    *buffer = new Buffer{block, offset, bytes, is_host_};
    return 0;
  }

  void Free(Buffer* buffer) {
    auto& free = buffer->block->free;
    size_t offset = buffer->offset, bytes = buffer->bytes;
    auto next = free.lower_bound(offset);
    if (next != free.end() && next->first == offset + bytes) {
      bytes += next->second;
      next = free.erase(next);
    }
    if (next != free.begin()) {
      auto previous = std::prev(next);
      if (previous->first + previous->second == offset) {
        offset = previous->first;
        bytes += previous->second;
      }
    }
    free[offset] = bytes;
    delete buffer;
  }

  /* Give blocks of which nothing is lent back to the driver. */
  void Trim() {
    blocks_.remove_if([this](Block& block) {
      bool is_free = block.free.size() == 1 && block.free.begin()->second == block.bytes;
      if (is_free) vulkan_destroy_buffer(device_, &block.vk);
      return is_free;
    });
  }

 private:
  int Grow(size_t bytes) {
    /* Where a whole block is too much there may be room for what is needed. */
    for (size_t size : {std::max(bytes, kBlockBytes), bytes}) {
      Block block;
      int code = vulkan_create_buffer(device_, size, is_host_, &block.vk);
      if (code == GPU_OUT_OF_MEMORY && size > bytes) continue;
      if (code != 0) return code;
      block.bytes = size;
      block.free[0] = size;
      blocks_.push_back(std::move(block));
      return 0;
    }
    return GPU_OUT_OF_MEMORY;
  }

  vulkan_device* device_;
  bool is_host_;
  std::list<Block> blocks_;
};

}  // namespace ofa_vulkan

#endif
