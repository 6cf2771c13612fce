// Parts of the simulated device that are shared by several source files.

#pragma once

#include <ATen/ATen.h>

namespace simulated_mlu {

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;

// Sets the number of visible cards; call once, before the first use.
void set_device_count(c10::DeviceIndex count);

// The current card is per thread, as for every accelerator in PyTorch.
c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex index);

// Whether this process was forked from one that had used a card, which the driver does not support.
bool in_bad_fork();

c10::Allocator* allocator();

// Bytes in use on a card: now, and at the peak since the last reset.
struct Usage {
  int64_t now = 0;
  int64_t peak = 0;
};
Usage usage(c10::DeviceIndex index);
void reset_peak(c10::DeviceIndex index);

// The card's default random number generator.
at::Generator& generator(c10::DeviceIndex index);

// Grows a storage to at least `bytes`, keeping its contents.
void grow(c10::StorageImpl& storage, size_t bytes);

// Returns a CPU tensor on the same memory, which it keeps alive.
at::Tensor host_alias(const at::Tensor& tensor);

}  // namespace simulated_mlu
