// SPDX-License-Identifier: Apache-2.0
// Ctrl-C and SIGTERM as something to ask about, so that files and calls are left in order. A second one ends the
// program at once.
#ifndef WD_CLIENT_INTERRUPT_H
#define WD_CLIENT_INTERRUPT_H

#include <stdbool.h>

// From now on SIGINT and SIGTERM only raise the flag below.
void wd_interrupt_install(void);

// Whether one has come.
bool wd_interrupted(void);

#endif
