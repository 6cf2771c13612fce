// Python bindings, and `cncl`, the process group of cards.

#include <pybind11/pybind11.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "device.h"

namespace simulated_mlu {
namespace {

using at::Tensor;
using c10d::Work;
using Tensors = std::vector<Tensor>;

Tensors host_aliases(const Tensors& tensors) {
  Tensors hosts;
  for (const Tensor& tensor : tensors) {
    TORCH_CHECK(tensor.is_privateuseone(), "cncl: a tensor is on ", tensor.device());
    hosts.push_back(host_alias(tensor));
  }
  return hosts;
}

std::vector<Tensors> host_aliases(const std::vector<Tensors>& lists) {
  std::vector<Tensors> hosts;
  for (const Tensors& list : lists) {
    hosts.push_back(host_aliases(list));
  }
  return hosts;
}

// Returns finished work with the result `tensors`, from which DDP reads its gradient buckets.
c10::intrusive_ptr<Work> completed(const Tensors& tensors) {
  std::vector<c10::Device> devices;
  for (const Tensor& tensor : tensors) {
    if (std::find(devices.begin(), devices.end(), tensor.device()) == devices.end()) {
      devices.push_back(tensor.device());
    }
  }
  auto future = c10::make_intrusive<c10::ivalue::Future>(
      c10::ListType::create(c10::TensorType::get()), devices);
  future->markCompleted(c10::IValue(tensors));
  return Work::create_from_future(future);
}

// Runs each collective by gloo on the same memory, and waits for it.
class Cncl final : public c10d::Backend {
 public:
  explicit Cncl(c10::intrusive_ptr<c10d::Backend> gloo)
      : Backend(gloo->getRank(), gloo->getSize()), gloo_(std::move(gloo)) {}

  const std::string getBackendName() const override { return "cncl"; }

  c10::intrusive_ptr<Work> broadcast(Tensors& tensors,
                                     const c10d::BroadcastOptions& options) override {
    Tensors hosts = host_aliases(tensors);
    gloo_->broadcast(hosts, options)->wait();
    return completed(tensors);
  }

  c10::intrusive_ptr<Work> allreduce(Tensors& tensors,
                                     const c10d::AllreduceOptions& options) override {
    Tensors hosts = host_aliases(tensors);
    gloo_->allreduce(hosts, options)->wait();
    return completed(tensors);
  }

  c10::intrusive_ptr<Work> reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    Tensors hosts = host_aliases(tensors);
    gloo_->reduce(hosts, options)->wait();
    return completed(tensors);
  }

  c10::intrusive_ptr<Work> allgather(std::vector<Tensors>& outputs, Tensors& inputs,
                                     const c10d::AllgatherOptions& options) override {
    std::vector<Tensors> gathered = host_aliases(outputs);
    Tensors hosts = host_aliases(inputs);
    gloo_->allgather(gathered, hosts, options)->wait();
    return completed(outputs.front());
  }

  c10::intrusive_ptr<Work> _allgather_base(Tensor& output, Tensor& input,
                                           const c10d::AllgatherOptions& options) override {
    Tensor gathered = host_alias(output);
    Tensor host = host_alias(input);
    gloo_->_allgather_base(gathered, host, options)->wait();
    return completed({output});
  }

  c10::intrusive_ptr<Work> barrier(const c10d::BarrierOptions& options) override {
    gloo_->barrier(options)->wait();
    return completed({});
  }

 private:
  c10::intrusive_ptr<c10d::Backend> gloo_;
};

c10::intrusive_ptr<c10d::Backend> make_cncl(const c10::intrusive_ptr<c10d::Backend>& gloo) {
  return c10::make_intrusive<Cncl>(gloo);
}

}  // namespace

PYBIND11_MODULE(simulated_mlu, m) {
  m.def("set_device_count", [](int count) { set_device_count(static_cast<int8_t>(count)); });
  m.def("current_device", [] { return static_cast<int>(current_device()); });
  m.def("set_device", [](int index) { set_current_device(static_cast<int8_t>(index)); });
  m.def("in_bad_fork", &in_bad_fork);
  m.def("memory_allocated", [](int index) { return usage(static_cast<int8_t>(index)).now; });
  m.def("max_memory_allocated", [](int index) { return usage(static_cast<int8_t>(index)).peak; });
  m.def("reset_peak", [](int index) { reset_peak(static_cast<int8_t>(index)); });
  m.def("manual_seed", [](uint64_t seed, int index) {
    generator(static_cast<int8_t>(index)).set_current_seed(seed);
  });
  m.def("rng_state", [](int index) { return generator(static_cast<int8_t>(index)).get_state(); });
  m.def("set_rng_state", [](const at::Tensor& state, int index) {
    generator(static_cast<int8_t>(index)).set_state(state);
  });
  m.def("make_cncl", &make_cncl);
}

}  // namespace simulated_mlu
