/* What threads and processes of one program must know of each other; nothing where a platform has
 * no threads (OFA_SINGLE_THREAD). */
#ifndef OFA_LOCK_H
#define OFA_LOCK_H

#ifdef OFA_SINGLE_THREAD

typedef char ofa_lock;
#define OFA_UNLOCKED 0
static inline void ofa_lock_take(ofa_lock *lock) { (void)lock; }
static inline int ofa_lock_try(ofa_lock *lock) { return (void)lock, 1; }
static inline void ofa_lock_release(ofa_lock *lock) { (void)lock; }
static inline long ofa_process(void) { return 0; }

#else

#include <pthread.h>
#include <unistd.h>

typedef pthread_mutex_t ofa_lock;
#define OFA_UNLOCKED PTHREAD_MUTEX_INITIALIZER
static inline void ofa_lock_take(ofa_lock *lock) { pthread_mutex_lock(lock); }
/* Take the lock, or return 0 when somebody has it. */
static inline int ofa_lock_try(ofa_lock *lock) { return pthread_mutex_trylock(lock) == 0; }
static inline void ofa_lock_release(ofa_lock *lock) { pthread_mutex_unlock(lock); }
/* Which process this is: a fork has another number. */
static inline long ofa_process(void) { return (long)getpid(); }

#endif

#endif
