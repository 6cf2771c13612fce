// Operators of the simulated device: those of the CPU, run on the same memory.

#include <ATen/EmptyTensor.h>
#include <torch/library.h>

#include "device.h"

namespace simulated_mlu {
namespace {

using at::Tensor;
using c10::IValue;

// ---- The device of an operator; operands on different devices are an error ----

// Finds the device that all operands of an operator are on.
class CommonDevice {
 public:
  explicit CommonDevice(std::string op) : op_(std::move(op)) {}

  void add(const Tensor& tensor) {
    if (!tensor.defined()) {
      return;
    }
    // Scalars are passed as 0-dimensional CPU tensors, which every kernel accepts.
    const bool is_scalar = tensor.device().is_cpu() && tensor.dim() == 0;
    if (is_scalar) {
      return;
    }
    if (!found_.has_value()) {
      found_ = tensor.device();
    }
    TORCH_CHECK(*found_ == tensor.device(),
                "Expected all tensors to be on the same device, but found at least two devices, ",
                *found_, " and ", tensor.device(), "! (", op_, ")");
  }

  c10::Device get() const {
    const bool on_card = found_.has_value() && found_->type() == kType;
    return on_card ? *found_ : c10::Device(kType, current_device());
  }

 private:
  std::string op_;
  std::optional<c10::Device> found_;
};

c10::Device common_device(const c10::FunctionSchema& schema, const std::vector<IValue>& arguments) {
  CommonDevice device(schema.operator_name().name);
  for (const IValue& argument : arguments) {
    if (argument.isTensor()) {
      device.add(argument.toTensor());
    } else if (argument.isTensorList()) {
      for (const Tensor& tensor : argument.toTensorVector()) {
        device.add(tensor);
      }
    }
    // Lists of optional tensors are indices, x[...], which may be on the CPU on every backend.
  }
  return device.get();
}

// ---- Arguments to the CPU, and results back to the device ----

Tensor to_host(const Tensor& tensor) {
  return tensor.defined() && tensor.is_privateuseone() ? host_alias(tensor) : tensor;
}

Tensor to_device(const Tensor& tensor, c10::Device device) {
  if (!tensor.defined()) {
    return tensor;
  }
  Tensor result =
      at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device));
  host_alias(result).copy_(tensor);
  return result;
}

IValue to_host(const IValue& argument, const c10::Argument& declared, c10::Device device) {
  if (argument.isTensor()) {
    return to_host(argument.toTensor());
  }
  if (argument.isTensorList()) {
    c10::List<Tensor> hosts;
    for (const Tensor& tensor : argument.toTensorVector()) {
      hosts.push_back(to_host(tensor));
    }
    return hosts;
  }
  if (argument.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> hosts;
    for (const std::optional<Tensor>& tensor : argument.toOptionalTensorVector()) {
      hosts.push_back(tensor.has_value() ? std::make_optional(to_host(*tensor)) : std::nullopt);
    }
    return hosts;
  }
  if (argument.isDevice()) {
    return c10::Device(c10::kCPU);
  }
  // Without an explicit generator, use the card's default one, not the CPU's.
  const auto optional_generator = c10::OptionalType::create(c10::GeneratorType::get());
  if (argument.isNone() && *declared.real_type() == *optional_generator) {
    return generator(device.index());
  }
  return argument;
}

// Applies changes of shape and storage that an operator made to an argument it writes to.
void apply_changes(const Tensor& tensor, const Tensor& host) {
  if (!tensor.defined() || !tensor.is_privateuseone()) {
    return;
  }
  auto* impl = tensor.unsafeGetTensorImpl();
  if (host.storage().data() != tensor.storage().data()) {
    c10::StorageImpl& storage = *tensor.storage().unsafeGetStorageImpl();
    grow(storage, host.storage().nbytes());
    std::memcpy(storage.mutable_data(), host.storage().data(), host.storage().nbytes());
  }
  impl->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
}

void apply_changes(const IValue& given, const IValue& host) {
  if (given.isTensor()) {
    apply_changes(given.toTensor(), host.toTensor());
  } else if (given.isTensorList()) {
    const auto tensors = given.toTensorVector();
    const auto hosts = host.toTensorVector();
    for (size_t i = 0; i < tensors.size(); ++i) {
      apply_changes(tensors[i], hosts[i]);
    }
  }
}

// Returns a view of `base` with the sizes, strides and offset of `host`.
Tensor view_like(const Tensor& base, const Tensor& host) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(base.storage()), base.key_set(), base.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(),
                                                    host.storage_offset());
  return view;
}

IValue to_device(const IValue& result, c10::Device device) {
  if (result.isTensor()) {
    return to_device(result.toTensor(), device);
  }
  if (result.isTensorList()) {
    c10::List<Tensor> tensors;
    for (const Tensor& tensor : result.toTensorVector()) {
      tensors.push_back(to_device(tensor, device));
    }
    return tensors;
  }
  return result;
}

// Returns the argument that a result aliases according to the operator's schema.
const IValue& aliased_argument(const c10::FunctionSchema& schema, const c10::AliasInfo& alias,
                               const std::vector<IValue>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    const c10::AliasInfo* candidate = schema.arguments()[i].alias_info();
    if (candidate != nullptr && candidate->beforeSets() == alias.beforeSets()) {
      return arguments[i];
    }
  }
  TORCH_INTERNAL_ASSERT(false, "no argument of ", schema.name(), " is aliased by its result");
}

IValue result_for(const IValue& result, const c10::Argument& declared,
                  const c10::FunctionSchema& schema, const std::vector<IValue>& arguments,
                  c10::Device device) {
  const c10::AliasInfo* alias = declared.alias_info();
  if (alias == nullptr) {
    return to_device(result, device);
  }
  const IValue& argument = aliased_argument(schema, *alias, arguments);
  if (alias->isWrite()) {
    return argument;
  }
  TORCH_CHECK(result.isTensor(), "the simulated MLU has no lists of views (", schema.name(), ")");
  return view_like(argument.toTensor(), result.toTensor());
}

// Runs any operator on the CPU, on the device's memory.
void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = op.schema();
  const auto begin = stack->end() - static_cast<int64_t>(schema.arguments().size());
  const std::vector<IValue> given(begin, stack->end());
  const c10::Device device = common_device(schema, given);
  std::vector<IValue> hosts;
  for (size_t i = 0; i < given.size(); ++i) {
    hosts.push_back(to_host(given[i], schema.arguments()[i], device));
  }
  std::copy(hosts.begin(), hosts.end(), begin);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (size_t i = 0; i < given.size(); ++i) {
    const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
    if (alias != nullptr && alias->isWrite()) {
      apply_changes(given[i], hosts[i]);
    }
  }
  const auto results = stack->end() - static_cast<int64_t>(schema.returns().size());
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    results[i] = result_for(results[i], schema.returns()[i], schema, given, device);
  }
}

// ---- Operators for which the CPU's operator of the same name cannot be used ----

Tensor empty(c10::SymIntArrayRef sizes, std::optional<c10::ScalarType> dtype,
             std::optional<c10::Layout>, std::optional<c10::Device> device, std::optional<bool>,
             std::optional<c10::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(sizes), allocator(),
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides,
                     std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                     std::optional<c10::Device> device, std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides), allocator(),
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& source, const Tensor& target, bool /*non_blocking*/) {
  to_host(target).copy_(to_host(source));
  return target;
}

Tensor& set_storage(Tensor& tensor, c10::Storage storage, c10::SymInt offset,
                    c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides),
                              offset.guard_int(__FILE__, __LINE__));
  return tensor;
}

Tensor& set_whole_storage(Tensor& tensor, c10::Storage storage) {
  const int64_t elements = static_cast<int64_t>(storage.nbytes()) / tensor.element_size();
  return set_storage(tensor, std::move(storage), 0, {c10::SymInt(elements)}, {c10::SymInt(1)});
}

const Tensor& resize(const Tensor& tensor, c10::SymIntArrayRef sizes,
                     std::optional<c10::MemoryFormat> format) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(C10_AS_INTARRAYREF_SLOW(sizes));
  if (format.has_value()) {
    impl->empty_tensor_restride(*format);
  }
  const int64_t elements = tensor.storage_offset() + tensor.numel();
  const c10::OptionalDeviceGuard guard(tensor.device());
  grow(*tensor.storage().unsafeGetStorageImpl(), elements * tensor.element_size());
  return tensor;
}

// PyTorch dispatches `convolution` to `convolution_overrideable` on out-of-tree devices.
Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                   c10::SymIntArrayRef dilation, bool transposed,
                   c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  CommonDevice device("aten::convolution");
  device.add(input);
  device.add(weight);
  device.add(bias.value_or(Tensor()));
  const Tensor output = at::convolution_symint(
      to_host(input), to_host(weight), to_host(bias.value_or(Tensor())), stride, padding, dilation,
      transposed, output_padding, std::move(groups));
  return to_device(output, device.get());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient, const Tensor& input, const Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> output_mask) {
  CommonDevice device("aten::convolution_backward");
  device.add(gradient);
  device.add(input);
  device.add(weight);
  const auto gradients = at::convolution_backward_symint(
      to_host(gradient), to_host(input), to_host(weight), std::nullopt, stride, padding, dilation,
      transposed, output_padding, std::move(groups), output_mask);
  return {to_device(std::get<0>(gradients), device.get()),
          to_device(std::get<1>(gradients), device.get()),
          to_device(std::get<2>(gradients), device.get())};
}

// Accelerators use this fused kernel, which takes no generator. It computes like the CPU's dropout,
// so that the same seed gives the same bits.
std::tuple<Tensor, Tensor> native_dropout(const Tensor& input, double p,
                                          std::optional<bool> train) {
  const c10::Device device = input.device();
  const Tensor host = to_host(input);
  if (!train.value_or(true)) {
    return {to_device(host, device), to_device(at::ones_like(host, at::kBool), device)};
  }
  Tensor noise = at::empty_like(host).bernoulli_(1 - p, generator(device.index()));
  const Tensor kept = noise.to(at::kBool);
  return {to_device(host * noise.div_(1 - p), device), to_device(kept, device)};
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("resize_", &resize);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("native_dropout", &native_dropout);
}

}  // namespace
}  // namespace simulated_mlu
