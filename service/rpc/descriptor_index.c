// SPDX-License-Identifier: Apache-2.0
#include "service/rpc/descriptor_index.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "descriptor/index.pb-c.h"

static const uint8_t descriptor_set[] = {
#include "descriptor_set.inc"
};

// Parsed once and kept for the life of the process.
static pthread_once_t once = PTHREAD_ONCE_INIT;
static Weightd__Descriptor__FileSet *set;
static Weightd__Descriptor__File **files;

static void parse(void) {
  set = weightd__descriptor__file_set__unpack(NULL, sizeof descriptor_set, descriptor_set);
  files = set ? calloc(set->n_file, sizeof(Weightd__Descriptor__File *)) : NULL;
  for (size_t i = 0; files && i < set->n_file; i++) {
    files[i] = weightd__descriptor__file__unpack(NULL, set->file[i].len, set->file[i].data);
  }
}

static size_t n_files(void) {
  pthread_once(&once, parse);
  return files ? set->n_file : 0;
}

ProtobufCBinaryData wd_descriptor_by_file(const char *file) {
  for (size_t i = 0; i < n_files(); i++) {
    if (files[i] && strcmp(files[i]->name, file) == 0) {
      return set->file[i];
    }
  }
  return (ProtobufCBinaryData){0};
}

// What of `symbol` follows "<name>.": "" where it is the name itself, NULL where it is neither.
static const char *inside(const char *symbol, const char *name) {
  size_t size = strlen(name);
  if (strncmp(symbol, name, size) != 0) {
    return NULL;
  }
  return symbol[size] == '.' ? symbol + size + 1 : symbol[size] == 0 ? symbol + size : NULL;
}

static bool any_named(Weightd__Descriptor__Named *const *named, size_t n, const char *symbol) {
  for (size_t i = 0; i < n; i++) {
    if (strcmp(named[i]->name, symbol) == 0) {
      return true;
    }
  }
  return false;
}

// Our own files nest two deep at most, so this recursion is bounded by the build.
static bool in_messages(Weightd__Descriptor__Message *const *messages, size_t n, const char *symbol) {
  for (size_t i = 0; i < n; i++) {
    const char *rest = inside(symbol, messages[i]->name);
    if (rest && (!*rest || any_named(messages[i]->field, messages[i]->n_field, rest) ||
                 any_named(messages[i]->enum_type, messages[i]->n_enum_type, rest) ||
                 in_messages(messages[i]->nested_type, messages[i]->n_nested_type, rest))) {
      return true;
    }
  }
  return false;
}

static bool in_services(Weightd__Descriptor__Service *const *services, size_t n, const char *symbol) {
  for (size_t i = 0; i < n; i++) {
    const char *rest = inside(symbol, services[i]->name);
    if (rest && (!*rest || any_named(services[i]->method, services[i]->n_method, rest))) {
      return true;
    }
  }
  return false;
}

ProtobufCBinaryData wd_descriptor_by_symbol(const char *symbol) {
  for (size_t i = 0; i < n_files(); i++) {
    const Weightd__Descriptor__File *file = files[i];
    const char *rest = file ? inside(symbol, file->package) : NULL;
    if (rest && *rest &&
        (in_services(file->service, file->n_service, rest) ||
         in_messages(file->message_type, file->n_message_type, rest) ||
         any_named(file->enum_type, file->n_enum_type, rest))) {
      return set->file[i];
    }
  }
  return (ProtobufCBinaryData){0};
}

char *wd_descriptor_service(size_t number) {
  for (size_t i = 0; i < n_files(); i++) {
    size_t n = files[i] ? files[i]->n_service : 0;
    if (number < n) {
      char *name = NULL;
      return asprintf(&name, "%s.%s", files[i]->package, files[i]->service[number]->name) < 0 ? NULL : name;
    }
    number -= n;
  }
  return NULL;
}
