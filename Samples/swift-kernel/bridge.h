// What the kernel takes from C: the two port instructions.
#include "../common/io.h"
