#ifndef RING3_H
#define RING3_H

enum { USER_WINDOW = 0x40000000 };

void user_main(void);

#endif
