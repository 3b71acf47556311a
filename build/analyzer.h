// SPDX-License-Identifier: Apache-2.0
// For clang-tidy alone, put in front of every file by ./test: tells its analyzer, which sees one file at a time, that
// wd_fail returns the status it was given, so that it does not follow paths on which a failure is none.
#include "service/base/error.h"
#define wd_fail(err, status, ...) ((wd_fail)((err), (status), __VA_ARGS__), (status))
