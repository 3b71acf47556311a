// SPDX-License-Identifier: Apache-2.0
// Server reflection, v1 and v1alpha: the two have the same messages under different names, so one implementation, in
// v1's types, answers both.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpc/reflection/v1/reflection.pb-c.h"
#include "service/base/text.h"
#include "service/rpc/descriptor_index.h"
#include "service/rpc/methods.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest reflection_request;
typedef Grpc__Reflection__V1__ServerReflectionResponse reflection_response;

struct state {
  pthread_mutex_t lock;  // messages arrive on a queue's thread, answers leave on any
  ProtobufCMessage *message;
  bool receiving;
  bool ended;
  bool started;
};

static void start(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  pthread_mutex_init(&state->lock, NULL);
  state->started = true;
  state->receiving = true;
  wd_call_receive(call);
}

static void received(struct wd_call *call, ProtobufCMessage *message) {
  struct state *state = wd_call_state(call);
  pthread_mutex_lock(&state->lock);
  state->receiving = false;
  state->message = message;
  state->ended = !message;
  pthread_mutex_unlock(&state->lock);
}

#define MAX_SERVICES 16

// Fills what `response` says; the parts live in the caller's frame.
struct parts {
  Grpc__Reflection__V1__FileDescriptorResponse file;
  ProtobufCBinaryData file_bytes;
  Grpc__Reflection__V1__ListServiceResponse list;
  Grpc__Reflection__V1__ServiceResponse services[MAX_SERVICES];
  Grpc__Reflection__V1__ServiceResponse *service_pointers[MAX_SERVICES];
  char *names[MAX_SERVICES];
  size_t n_names;
  Grpc__Reflection__V1__ErrorResponse error;
  char error_text[300];
};

static void answer_error(reflection_response *response, struct parts *parts, grpc_status_code code, const char *what) {
  grpc__reflection__v1__error_response__init(&parts->error);
  snprintf(parts->error_text, sizeof parts->error_text, "%s is not known here", what);
  parts->error.error_code = code;
  parts->error.error_message = parts->error_text;
  response->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
  response->error_response = &parts->error;
}

static void answer_file(reflection_response *response, struct parts *parts, ProtobufCBinaryData file,
                        const char *what) {
  if (!file.data) {
    answer_error(response, parts, GRPC_STATUS_NOT_FOUND, what);
    return;
  }
  grpc__reflection__v1__file_descriptor_response__init(&parts->file);
  parts->file_bytes = file;
  parts->file.n_file_descriptor_proto = 1;
  parts->file.file_descriptor_proto = &parts->file_bytes;
  response->message_response_case =
      GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
  response->file_descriptor_response = &parts->file;
}

static void answer_list(reflection_response *response, struct parts *parts) {
  grpc__reflection__v1__list_service_response__init(&parts->list);
  while (parts->n_names < MAX_SERVICES && (parts->names[parts->n_names] = wd_descriptor_service(parts->n_names))) {
    size_t i = parts->n_names++;
    grpc__reflection__v1__service_response__init(&parts->services[i]);
    parts->services[i].name = parts->names[i];
    parts->service_pointers[i] = &parts->services[i];
  }
  parts->list.n_service = parts->n_names;
  parts->list.service = parts->service_pointers;
  response->message_response_case =
      GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
  response->list_services_response = &parts->list;
}

static void answer(struct wd_call *call, reflection_request *request) {
  reflection_response response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
  struct parts parts = {.n_names = 0};
  // What the client sent is sent back to it, if it can be: a string that is no UTF-8 would break the response.
  if (wd_utf8_valid(request->host, strlen(request->host))) {
    response.valid_host = request->host;
    response.original_request = request;
  }
  const char *asked = "";
  switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
      asked = request->file_by_filename;
      answer_file(&response, &parts, wd_descriptor_by_file(asked), WD_QUOTE(asked, strlen(asked)));
      break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
      asked = request->file_containing_symbol;
      answer_file(&response, &parts, wd_descriptor_by_symbol(asked), WD_QUOTE(asked, strlen(asked)));
      break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
      asked = request->list_services;
      answer_list(&response, &parts);
      break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
      asked = request->file_containing_extension->containing_type;
      answer_error(&response, &parts, GRPC_STATUS_NOT_FOUND, "an extension (proto3 has none)");
      break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
      asked = request->all_extension_numbers_of_type;
      answer_error(&response, &parts, GRPC_STATUS_NOT_FOUND, "an extension (proto3 has none)");
      break;
    default:
      answer_error(&response, &parts, GRPC_STATUS_INVALID_ARGUMENT, "a request of this kind");
      break;
  }
  if (!wd_utf8_valid(asked, strlen(asked))) {
    response.original_request = NULL;
  }
  wd_call_send_message(call, &response.base);
  for (size_t i = 0; i < parts.n_names; i++) {
    free(parts.names[i]);
  }
}

static enum wd_next next(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  pthread_mutex_lock(&state->lock);
  ProtobufCMessage *message = state->message;
  bool receive = !message && !state->ended && !state->receiving;
  bool ended = state->ended;
  state->message = NULL;
  state->receiving |= receive;
  pthread_mutex_unlock(&state->lock);
  if (message) {
    answer(call, (reflection_request *)(void *)message);
    wd_message_free(message);
    return WD_NEXT_BUSY;
  }
  if (ended) {
    wd_call_finish(call, WD_OK, NULL);
    return WD_NEXT_BUSY;
  }
  if (receive) {
    wd_call_receive(call);
  }
  return WD_NEXT_WAIT;
}

static void destroy(struct wd_call *call) {
  struct state *state = wd_call_state(call);
  if (state->started) {
    wd_message_free(state->message);
    pthread_mutex_destroy(&state->lock);
  }
}

#define REFLECTION(version)                                                                                       \
  {                                                                                                               \
    .path = "/grpc.reflection." version ".ServerReflection/ServerReflectionInfo", .name = "ServerReflectionInfo", \
    .kind = WD_METHOD_WATCH, .group = WD_GROUP_REFLECTION,                                                        \
    .request = &grpc__reflection__v1__server_reflection_request__descriptor, .client_streams = true,              \
    .state_size = sizeof(struct state), .start = start, .next = next, .received = received, .destroy = destroy,   \
  }

const struct wd_method wd_reflection_v1 = REFLECTION("v1");
const struct wd_method wd_reflection_v1alpha = REFLECTION("v1alpha");
