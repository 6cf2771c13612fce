// Memory, the current card, and the guard and hooks that PyTorch requires of an accelerator.

#include "device.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>

namespace simulated_mlu {
namespace {

constexpr c10::DeviceIndex kMaxDevices = 64;

c10::DeviceIndex g_device_count = 0;
thread_local c10::DeviceIndex t_current_device = 0;
std::atomic<bool> g_used{false};
std::atomic<bool> g_bad_fork{false};
std::mutex g_usage_mutex;
std::array<Usage, kMaxDevices> g_usage;

void check_index(c10::DeviceIndex index) {
  TORCH_CHECK(index >= 0 && index < g_device_count, "MLU error: invalid device ordinal ",
              static_cast<int>(index), " of ", static_cast<int>(g_device_count));
}

void count_bytes(c10::DeviceIndex index, int64_t bytes) {
  const std::lock_guard<std::mutex> guard(g_usage_mutex);
  Usage& usage = g_usage.at(index);
  usage.now += bytes;
  usage.peak = std::max(usage.peak, usage.now);
}

// Marks the driver as initialized; fails in a process that was forked after that.
void use_driver() {
  TORCH_CHECK(!g_bad_fork,
              "Cannot re-initialize MLU in forked subprocess. To use MLU with multiprocessing, you "
              "must use the 'spawn' start method");
  if (!g_used.exchange(true)) {
    pthread_atfork(nullptr, nullptr, [] { g_bad_fork = true; });
  }
}

struct Block {
  void* data;
  int64_t bytes;
  c10::DeviceIndex device;
};

class HostMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    use_driver();
    const c10::Device device(kType, t_current_device);
    if (bytes == 0) {
      return {nullptr, device};
    }
    constexpr size_t kAlignment = 64;
    const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    void* data = std::aligned_alloc(kAlignment, rounded);
    TORCH_CHECK(data != nullptr, "MLU out of memory");
    auto* block = new Block{data, static_cast<int64_t>(bytes), device.index()};
    count_bytes(block->device, block->bytes);
    return {data, block, &release, device};
  }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }

 private:
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    count_bytes(block->device, -block->bytes);
    std::free(block->data);
    delete block;
  }
};

// Pinned CPU memory: ordinary memory, of which this remembers the addresses for `is_pinned`.
class PinnedMemory final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr inner = at::getCPUAllocator()->allocate(bytes);
    void* data = inner.get();
    const std::lock_guard<std::mutex> guard(lock_);
    pinned_[data] = bytes;
    return {data, inner.release_context(), &release, c10::Device(c10::kCPU)};
  }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }

  bool contains(const void* data) {
    const std::lock_guard<std::mutex> guard(lock_);
    const auto after = pinned_.upper_bound(data);
    if (after == pinned_.begin()) {
      return false;
    }
    const auto& [start, bytes] = *std::prev(after);
    return data < static_cast<const char*>(start) + bytes;
  }

 private:
  static void release(void* context);

  std::mutex lock_;
  std::map<const void*, size_t> pinned_;
};

PinnedMemory g_pinned;

void PinnedMemory::release(void* context) {
  {
    const std::lock_guard<std::mutex> guard(g_pinned.lock_);
    g_pinned.pinned_.erase(context);
  }
  at::getCPUAllocator()->raw_deallocate(context);
}

HostMemory g_allocator;
REGISTER_ALLOCATOR(kType, &g_allocator);

// There is one stream, which is always idle: every call is synchronous.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kType; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {kType, t_current_device}; }
  void setDevice(c10::Device device) const override { set_current_device(device.index()); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    t_current_device = device.index();
  }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, stream.device());
  }
  c10::DeviceIndex deviceCount() const noexcept override { return g_device_count; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex,
              const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return g_device_count > 0; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return g_used; }
  c10::DeviceIndex deviceCount() const override { return g_device_count; }
  void setCurrentDevice(c10::DeviceIndex index) const override { set_current_device(index); }
  c10::DeviceIndex getCurrentDevice() const override { return t_current_device; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    const c10::DeviceIndex before = t_current_device;
    set_current_device(index);
    return before;
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  at::Allocator* getPinnedMemoryAllocator() const override { return &g_pinned; }
  bool isPinnedPtr(const void* data) const override { return g_pinned.contains(data); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<at::CPUGeneratorImpl>();
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return generator(index < 0 ? t_current_device : index);
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    grow(*storage.unsafeGetStorageImpl(), bytes);
  }
};

const bool g_hooks_registered = [] {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  return true;
}();

void release_storage(void* context) { delete static_cast<c10::Storage*>(context); }

}  // namespace

void set_device_count(c10::DeviceIndex count) {
  TORCH_CHECK(count <= kMaxDevices, "at most ", static_cast<int>(kMaxDevices), " cards");
  g_device_count = count;
}

c10::DeviceIndex current_device() { return t_current_device; }

void set_current_device(c10::DeviceIndex index) {
  check_index(index);
  t_current_device = index;
}

bool in_bad_fork() { return g_bad_fork; }

c10::Allocator* allocator() { return &g_allocator; }

Usage usage(c10::DeviceIndex index) {
  check_index(index);
  const std::lock_guard<std::mutex> guard(g_usage_mutex);
  return g_usage.at(index);
}

void reset_peak(c10::DeviceIndex index) {
  check_index(index);
  const std::lock_guard<std::mutex> guard(g_usage_mutex);
  g_usage.at(index).peak = g_usage.at(index).now;
}

at::Generator& generator(c10::DeviceIndex index) {
  // The CPU's kernels require CPU generators.
  static std::vector<at::Generator> generators = [] {
    std::vector<at::Generator> created;
    for (int i = 0; i < kMaxDevices; ++i) {
      created.push_back(at::make_generator<at::CPUGeneratorImpl>(c10::default_rng_seed_val));
    }
    return created;
  }();
  check_index(index);
  return generators.at(index);
}

void grow(c10::StorageImpl& storage, size_t bytes) {
  if (bytes <= storage.nbytes()) {
    return;
  }
  c10::DataPtr data = g_allocator.allocate(bytes);
  if (storage.nbytes() > 0) {
    std::memcpy(data.get(), storage.data(), storage.nbytes());
  }
  storage.set_data_ptr_noswap(std::move(data));
  storage.set_nbytes(bytes);
}

at::Tensor host_alias(const at::Tensor& tensor) {
  const c10::Storage& storage = tensor.storage();
  c10::DataPtr data(const_cast<void*>(storage.data()), new c10::Storage(storage), &release_storage,
                    c10::Device(c10::kCPU));
  c10::Storage shared(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data),
                      at::getCPUAllocator(), /*resizable=*/true);
  auto alias = at::detail::make_tensor<c10::TensorImpl>(
      std::move(shared), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(),
                                                     tensor.storage_offset());
  return alias;
}

}  // namespace simulated_mlu
