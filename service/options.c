// SPDX-License-Identifier: Apache-2.0
#include "service/options.h"

#include <argp.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "service/base/checked.h"
#include "service/base/cli.h"
#include "service/base/text.h"

enum {
  KEY_MODEL_ROOT = 0x100,
  KEY_LISTEN,
  KEY_DEVICE,
  KEY_MEMORY_BUDGET,
  KEY_METADATA_BUDGET,
  KEY_THREADS,
  KEY_QUEUES,
  KEY_SIMD,
  KEY_MAX_STREAMS,
  KEY_STALL_TIMEOUT,
  KEY_GRACE,
  KEY_LOG,
  KEY_VERBOSE,
  KEY_READY_FILE,
  KEY_HEALTH_LISTEN,
  KEY_TLS_CERT,
  KEY_TLS_KEY,
  KEY_TLS_CLIENT_CA,
  KEY_TOKEN_FILE,
  KEY_TOKEN_EXEMPT,
  KEY_INSECURE,
  KEY_ALLOW_CUDA_IPC,
  KEY_GPU_MEMORY_BUDGET,
  KEY_READ,
  KEY_IO,
  KEY_METRICS_LISTEN,
};

static const struct argp_option option_table[] = {
    {"model-root", KEY_MODEL_ROOT, "DIR", 0, "The folder whose models are served (required)", 0},
    {"listen", KEY_LISTEN, "ADDR", 0, "HOST:PORT (port 0: any free one) or unix:PATH; default " WD_DEFAULT_LISTEN, 0},
    {"device", KEY_DEVICE, "NAME", 0, "What decodes: auto (default), cpu, cuda, or cuda:N", 0},
    {"memory-budget", KEY_MEMORY_BUDGET, "SIZE", 0, "All buffers of all streams; default 256MiB", 0},
    {"metadata-budget", KEY_METADATA_BUDGET, "SIZE", 0, "Parsed headers of open models; default 256MiB", 0},
    {"threads", KEY_THREADS, "N", 0,
     "Decoding threads; default: one a core, with --device cuda three for every 4 from 12 on", 0},
    {"queues", KEY_QUEUES, "N", 0, "gRPC queues, a thread each; default: one for every 2 cores, up to 16", 0},
    {"simd", KEY_SIMD, "PATH", 0, "Decode path of the CPU: portable, avx2, avx512; default: the best it has", 0},
    {"read", KEY_READ, "HOW", 0,
     "What the page cache lacks: auto (default) around it, buffered through it; direct: all around it", 0},
    {"io", KEY_IO, "HOW", 0, "What reads ahead: auto (default), uring, or threads", 0},
    {"max-streams", KEY_MAX_STREAMS, "N", 0, "Streams at once, of all clients; default 256", 0},
    {"stall-timeout", KEY_STALL_TIMEOUT, "TIME", 0, "Cut a reader that takes nothing for so long; default 30s", 0},
    {"grace", KEY_GRACE, "TIME", 0, "How long running streams may go on after SIGTERM; default 30s", 0},
    {"log", KEY_LOG, "FORMAT", 0,
     "text (default) or json, a line a request, on stderr; with the caller's trace where it sends a traceparent", 0},
    {"verbose", KEY_VERBOSE, NULL, 0, "Log health checks, and what gRPC and libevent have to say, too", 0},
    {"ready-file", KEY_READY_FILE, "FILE", 0, "Write the address to FILE once the server accepts calls", 0},
    {"allow-cuda-ipc", KEY_ALLOW_CUDA_IPC, NULL, 0, "Lend GPU memory to callers on the unix socket (LeaseTensors)", 0},
    {"gpu-memory-budget", KEY_GPU_MEMORY_BUDGET, "SIZE", 0, "All GPU memory that is lent at once; default 8GiB", 0},
    {"metrics-listen", KEY_METRICS_LISTEN, "HOST:PORT", 0,
     "Serve Prometheus metrics at http://HOST:PORT/metrics, to anyone who reaches it; default: nowhere", 0},
    {"health-listen", KEY_HEALTH_LISTEN, "ADDR", 0,
     "Offer health alone on this address, too, in plain text and without tokens, for probes", 0},
    {"tls-cert", KEY_TLS_CERT, "FILE", 0, "TLS: the server's certificate, and the chain behind it, in PEM", 0},
    {"tls-key", KEY_TLS_KEY, "FILE", 0, "TLS: the certificate's private key, in PEM, not encrypted", 0},
    {"tls-client-ca", KEY_TLS_CLIENT_CA, "FILE", 0,
     "TLS: only clients with a certificate of these authorities, in PEM, may connect", 0},
    {"token-file", KEY_TOKEN_FILE, "FILE", 0,
     "Calls need one of these bearer tokens: one a line, 256 at most, '#' begins a comment", 0},
    {"token-exempt", KEY_TOKEN_EXEMPT, "WHAT", 0, "What needs no token: health, reflection, or health,reflection", 0},
    {"insecure", KEY_INSECURE, NULL, 0, "Listen beyond loopback even without TLS, or for anyone who can connect", 0},
    {0},
};

static void parse_size(struct argp_state *state, const char *name, const char *text, uint64_t *value) {
  if (!wd_parse_bytes(text, value)) {
    argp_error(state, "--%s %s: give a size such as 64MiB or 2G", name, text);
  }
}

static void parse_time(struct argp_state *state, const char *name, const char *text, uint64_t *ms) {
  if (!wd_parse_duration_ms(text, ms) || *ms > INT32_MAX) {
    argp_error(state, "--%s %s: give a time such as 500ms, 30s or 5m", name, text);
  }
}

static uint32_t parse_count(struct argp_state *state, const char *name, const char *text, uint64_t min, uint64_t max) {
  uint64_t value = min;
  if (!wd_parse_u64(text, min, max, &value)) {
    argp_error(state, "--%s %s: give a number from %" PRIu64 " to %" PRIu64, name, text, min, max);
  }
  return (uint32_t)value;
}

static void parse_exempt(struct argp_state *state, const char *text, struct wd_access_options *access) {
  access->open_health = false;
  access->open_reflection = false;
  for (const char *at = text;;) {
    size_t size = strcspn(at, ",");
    if (size == 6 && strncmp(at, "health", size) == 0) {
      access->open_health = true;
    } else if (size == 10 && strncmp(at, "reflection", size) == 0) {
      access->open_reflection = true;
    } else {
      argp_error(state, "--token-exempt %s: give health, reflection, or health,reflection", text);
    }
    if (!at[size]) {
      return;
    }
    at += size + 1;
  }
}

static void parse_read(struct argp_state *state, const char *text, enum wd_read *read) {
  static const char *const words[] = {
      [WD_READ_AUTO] = "auto", [WD_READ_BUFFERED] = "buffered", [WD_READ_DIRECT] = "direct"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    if (strcmp(text, words[i]) == 0) {
      *read = (enum wd_read)i;
      return;
    }
  }
  argp_error(state, "--read %s: give auto, buffered or direct", text);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
  struct wd_options *options = state->input;
  switch (key) {
    case KEY_MODEL_ROOT:
      options->model_root = arg;
      break;
    case KEY_LISTEN:
      options->server.listen = arg;
      break;
    case KEY_DEVICE:
      options->engine.device = arg;
      break;
    case KEY_MEMORY_BUDGET:
      parse_size(state, "memory-budget", arg, &options->engine.memory_budget);
      break;
    case KEY_METADATA_BUDGET:
      parse_size(state, "metadata-budget", arg, &options->server.metadata_budget);
      break;
    case KEY_THREADS:
      options->engine.threads = parse_count(state, "threads", arg, 1, 1024);
      break;
    case KEY_QUEUES:
      options->server.queues = parse_count(state, "queues", arg, 1, 64);
      break;
    case KEY_SIMD:
      options->engine.simd = arg;
      break;
    case KEY_READ:
      parse_read(state, arg, &options->engine.read);
      break;
    case KEY_IO:
      options->engine.io = arg;
      break;
    case KEY_MAX_STREAMS:
      options->server.max_streams = parse_count(state, "max-streams", arg, 1, 65536);
      break;
    case KEY_STALL_TIMEOUT:
      parse_time(state, "stall-timeout", arg, &options->server.stall_timeout_ms);
      break;
    case KEY_GRACE:
      parse_time(state, "grace", arg, &options->grace_ms);
      break;
    case KEY_LOG:
      if (strcmp(arg, "json") != 0 && strcmp(arg, "text") != 0) {
        argp_error(state, "--log %s: give text or json", arg);
      }
      options->json_log = strcmp(arg, "json") == 0;
      break;
    case KEY_VERBOSE:
      options->verbose = true;
      break;
    case KEY_READY_FILE:
      options->ready_file = arg;
      break;
    case KEY_HEALTH_LISTEN:
      options->server.health_listen = arg;
      break;
    case KEY_TLS_CERT:
      options->server.access.tls_cert = arg;
      break;
    case KEY_TLS_KEY:
      options->server.access.tls_key = arg;
      break;
    case KEY_TLS_CLIENT_CA:
      options->server.access.tls_client_ca = arg;
      break;
    case KEY_TOKEN_FILE:
      options->server.access.token_file = arg;
      break;
    case KEY_TOKEN_EXEMPT:
      parse_exempt(state, arg, &options->server.access);
      break;
    case KEY_INSECURE:
      options->server.insecure = true;
      break;
    case KEY_ALLOW_CUDA_IPC:
      options->server.allow_cuda_ipc = true;
      break;
    case KEY_GPU_MEMORY_BUDGET:
      parse_size(state, "gpu-memory-budget", arg, &options->server.gpu_memory_budget);
      break;
    case KEY_METRICS_LISTEN:
      options->metrics_listen = arg;
      break;
    case ARGP_KEY_ARG:
      argp_error(state, "unexpected argument %s", arg);
      break;
    case ARGP_KEY_END:
      if (!options->model_root) {
        argp_error(state, "--model-root is missing: name the folder whose models are to be served");
      }
      break;
    default:
      return ARGP_ERR_UNKNOWN;
  }
  return 0;
}

static const char doc[] =
    "Serves the models beneath a folder over gRPC: lists and describes them, and streams their tensors, dequantized."
    "\v"
    "Examples:\n"
    "  weightd serve --model-root /models\n"
    "  weightd serve --model-root /models --listen unix:/run/weightd.sock --device cuda\n"
    "  weightd serve --model-root /models --listen 0.0.0.0:50151 --health-listen 0.0.0.0:50152 --tls-cert tls.crt "
    "--tls-key tls.key --token-file tokens\n"
    "Beyond loopback it listens only with TLS and with tokens or client certificates, or with --insecure. "
    "Certificates, "
    "keys and tokens may be replaced at any time: new connections and calls see the new ones, running streams go on.\n"
    "Every option has a twin in the environment: WEIGHTD_MODEL_ROOT=/models, WEIGHTD_LOG=json, …\n"
    "SIGTERM or Ctrl-C drains: health says NOT_SERVING, running streams end within --grace, then it exits with 0.";

void wd_options_parse(int argc, char **argv, struct wd_options *options) {
  static const struct argp argp = {option_table, parse, NULL, doc, NULL, NULL, NULL};
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  *options = (struct wd_options){
      .grace_ms = 30000,
      .engine = {.device = "auto", .memory_budget = (uint64_t)256 << 20},
      .server = {.listen = WD_DEFAULT_LISTEN,
                 .queues = (uint32_t)wd_min_u64(wd_max_u64((uint64_t)cores / 2, 1), 16),
                 .max_streams = 256,
                 .stall_timeout_ms = 30000,
                 .gpu_memory_budget = (uint64_t)8 << 30,
                 .metadata_budget = (uint64_t)256 << 20},
  };
  wd_cli_parse(&argp, "WEIGHTD_", argc, argv, options);
  options->engine.readers = options->server.queues;
}
