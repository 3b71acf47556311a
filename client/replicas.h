// SPDX-License-Identifier: Apache-2.0
// The servers that a command may ask: replicas, which serve the same models.
//
// HOST:PORT is one server, whichever of the host's addresses answers; dns:///NAME:PORT is as many as the name has
// addresses (a headless Service of Kubernetes has one for each pod), looked up once, when the command starts.
#ifndef WD_CLIENT_REPLICAS_H
#define WD_CLIENT_REPLICAS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client/connection.h"
#include "client/description.h"
#include "service/base/error.h"

#define WD_MAX_REPLICAS 64

struct wd_replica {
  char *address;    // what a connection takes
  char *authority;  // the name it was found under, or NULL
  // What a transfer has had of it.
  uint64_t bytes;
  uint32_t losses;  // how often it was lost
};

struct wd_replicas {
  struct wd_replica *list;
  size_t n;
};

// The servers that the texts name, each of them one or several separated by commas; each server once, in order.
// INVALID_ARGUMENT where there are more than WD_MAX_REPLICAS, UNAVAILABLE where a name has no address. Whether an
// address is one is for wd_connection_open to say.
enum wd_status wd_replicas_create(const char *const *texts, size_t n, struct wd_replicas *replicas,
                                  struct wd_error *err);
void wd_replicas_free(struct wd_replicas *replicas);

// `config`, for a connection to this replica.
struct wd_connection_config wd_replica_config(const struct wd_replica *replica,
                                              const struct wd_connection_config *config);

// The same for a question that a server answers at once: with less patience.
struct wd_connection_config wd_replica_probe_config(const struct wd_replica *replica,
                                                    const struct wd_connection_config *config);

// Opens a connection to the first that says it is serving, in order, and notes which on stderr; where there is only
// one, without asking. UNAVAILABLE where none is.
enum wd_status wd_replicas_connect(const struct wd_replicas *replicas, const struct wd_connection_config *config,
                                   struct wd_connection **connection, struct wd_error *err);

// wd_description_get from the first that answers, after all were asked (at once) for the model's revision. Notes on
// stderr who does not answer. FAILED_PRECONDITION where two serve different revisions.
enum wd_status wd_replicas_describe(const struct wd_replicas *replicas, const struct wd_connection_config *config,
                                    const char *model, struct wd_description *description, struct wd_error *err);

#endif
