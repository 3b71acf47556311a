// SPDX-License-Identifier: Apache-2.0
// The Tensor message, as DescribeModel lists it and TensorChunk carries it.
#ifndef WD_RPC_TENSOR_MESSAGE_H
#define WD_RPC_TENSOR_MESSAGE_H

#include "service/engine/plan.h"
#include "weightd/v1/weightd.pb-c.h"

// A message and the arrays it points into; not to be moved or copied once it is filled.
struct wd_tensor_message {
  Weightd__V1__Tensor base;
  uint64_t shape[WD_MAX_DIMS];
  uint64_t output_shape[WD_MAX_DIMS];
};

// Describes a tensor. The message points to strings of the model.
void wd_tensor_message_fill(struct wd_tensor_message *message, const struct wd_model *model,
                            const struct wd_tensor *tensor);

// Adds what is delivered of it.
void wd_tensor_message_add_output(struct wd_tensor_message *message, const struct wd_unit *unit);

#endif
