// SPDX-License-Identifier: MIT
// Copyright 2026 The Ternflash Authors
//
// Reads the JavaScript object an op is called with. Values were validated in TypeScript; here only what would make a
// kernel touch memory that is not its own is looked at again.

#ifndef TERNFLASH_BINDING_ARGS_H_
#define TERNFLASH_BINDING_ARGS_H_

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "allocator.h"
#include "ops.h"

namespace ternflash {

class Args {
 public:
  Args(Allocator& allocator, const char* op, Napi::Object object) : allocator_(allocator), op_(op), object_(object) {}

  // A tensor of at least `length` elements.
  Tensor tensor(const char* name, int64_t length) const { return tensor(name, object_.Get(name), length); }
  Tensor optional_tensor(const char* name, int64_t length) const {
    const Napi::Value value = object_.Get(name);
    return value.IsObject() ? tensor(name, value, length) : Tensor{nullptr, DType::FLOAT32, 0};
  }
  std::vector<Tensor> tensors(const char* name) const {
    const Napi::Array array = object_.Get(name).As<Napi::Array>();
    std::vector<Tensor> result;
    for (uint32_t i = 0; i < array.Length(); i++) result.push_back(tensor(name, array.Get(i), 0));
    return result;
  }
  // Null entries are absent tensors.
  std::vector<Tensor> optional_tensors(const char* name) const {
    const Napi::Array array = object_.Get(name).As<Napi::Array>();
    std::vector<Tensor> result;
    for (uint32_t i = 0; i < array.Length(); i++) {
      const Napi::Value value = array.Get(i);
      result.push_back(value.IsObject() ? tensor(name, value, 0) : Tensor{nullptr, DType::FLOAT32, 0});
    }
    return result;
  }

  bool has(const char* name) const { return object_.Get(name).IsObject(); }
  std::vector<Args> objects(const char* name) const {
    const Napi::Array array = object_.Get(name).As<Napi::Array>();
    std::vector<Args> result;
    for (uint32_t i = 0; i < array.Length(); i++)
      result.push_back(Args(allocator_, op_, array.Get(i).As<Napi::Object>()));
    return result;
  }
  Args object(const char* name) const { return Args(allocator_, op_, object_.Get(name).As<Napi::Object>()); }

  int64_t integer(const char* name) const { return object_.Get(name).As<Napi::Number>().Int64Value(); }
  double number(const char* name) const { return object_.Get(name).As<Napi::Number>().DoubleValue(); }
  bool flag(const char* name) const { return object_.Get(name).As<Napi::Boolean>().Value(); }
  std::string text(const char* name) const { return object_.Get(name).As<Napi::String>().Utf8Value(); }

  std::vector<double> numbers(const char* name) const {
    const Napi::Array array = object_.Get(name).As<Napi::Array>();
    std::vector<double> result;
    for (uint32_t i = 0; i < array.Length(); i++) result.push_back(array.Get(i).As<Napi::Number>().DoubleValue());
    return result;
  }
  // Copies a list of at most `capacity` integers; returns how many.
  int integers(const char* name, int64_t* out, int capacity) const {
    const Napi::Array array = object_.Get(name).As<Napi::Array>();
    const int count = static_cast<int>(array.Length());
    if (count > capacity) fail(name, "a shorter list");
    for (int i = 0; i < count; i++) out[i] = array.Get(static_cast<uint32_t>(i)).As<Napi::Number>().Int64Value();
    return count;
  }

  [[noreturn]] void fail(const char* name, const char* expected) const {
    throw Napi::Error::New(object_.Env(), std::string(op_) + ": expected " + expected + " for " + name);
  }

 private:
  static DType dtype(const std::string& name) {
    if (name == "float32") return DType::FLOAT32;
    if (name == "float16") return DType::FLOAT16;
    if (name == "bfloat16") return DType::BFLOAT16;
    if (name == "int8") return DType::INT8;
    if (name == "uint8") return DType::UINT8;
    return DType::INT32;
  }

  static size_t element_bytes(DType dtype) {
    switch (dtype) {
      case DType::FLOAT32:
      case DType::INT32:
        return 4;
      case DType::FLOAT16:
      case DType::BFLOAT16:
        return 2;
      default:
        return 1;
    }
  }

  Tensor tensor(const char* name, Napi::Value value, int64_t at_least) const {
    if (!value.IsObject()) fail(name, "a tensor");
    const Napi::Object object = value.As<Napi::Object>();
    const Allocator::Block* block = allocator_.use(object.Get("buffer").As<Napi::Number>().Uint32Value());
    const DType type = dtype(object.Get("dtype").As<Napi::String>().Utf8Value());
    const int64_t length = object.Get("length").As<Napi::Number>().Int64Value();
    if (!block || length < at_least || static_cast<size_t>(length) * element_bytes(type) > block->bytes)
      fail(name, "a live buffer of the right size");
    return {block->data, type, length};
  }

  Allocator& allocator_;
  const char* op_;
  Napi::Object object_;
};

}  // namespace ternflash

#endif  // TERNFLASH_BINDING_ARGS_H_
