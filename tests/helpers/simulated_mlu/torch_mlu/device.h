// The parts of the simulated device that more than one source file needs.

#pragma once

#include <ATen/ATen.h>

namespace simulated_mlu {

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;

// Cards that a process sees; set once, before the first use.
void set_device_count(c10::DeviceIndex count);

// Each thread has a current card of its own, as with every accelerator in PyTorch.
c10::DeviceIndex current_device();
void set_current_device(c10::DeviceIndex index);

// Whether this process was forked from one that had used a card: the driver refuses such a process.
bool in_bad_fork();

c10::Allocator* allocator();

// Bytes in use on a card, now and at most since the last reset.
struct Usage {
  int64_t now = 0;
  int64_t peak = 0;
};
Usage usage(c10::DeviceIndex index);
void reset_peak(c10::DeviceIndex index);

// The card's own source of random numbers.
at::Generator& generator(c10::DeviceIndex index);

// Gives a tensor's storage room for `bytes`; what it holds is kept.
void grow(c10::StorageImpl& storage, size_t bytes);

// The same memory seen as a tensor of the CPU; keeps the memory alive.
at::Tensor host_alias(const at::Tensor& tensor);

}  // namespace simulated_mlu
