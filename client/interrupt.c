// SPDX-License-Identifier: Apache-2.0
#include "client/interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t raised;

static void on_signal(int number) {
  (void)number;
  raised = 1;
}

void wd_interrupt_install(void) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND};
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
}

bool wd_interrupted(void) {
  return raised != 0;
}
