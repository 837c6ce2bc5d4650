package mme;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.BooleanSupplier;

/**
 * Which worker of a model collects the next batch, in the place of Model.lock: of those that wait, the one that has
 * waited shortest, as soon as there is a request. In MMS all take turns, so that one request after the other wakes
 * every worker that sleeps (MMS-37).
 */
final class BatchLock extends ReentrantLock {
    private static final long serialVersionUID = 1L;

    private final transient Deque<Waiter> waiters = new ArrayDeque<>(); // the last one first
    private final transient BooleanSupplier isRequestThere;
    private transient Thread holder; // null: nobody collects

    BatchLock(BooleanSupplier isRequestThere) {
        this.isRequestThere = isRequestThere;
    }

    private static final class Waiter {
        private final Thread thread = Thread.currentThread();
        private final CountDownLatch isHolder = new CountDownLatch(1);
    }

    /** A request is there. */
    synchronized void onRequest() {
        if (holder == null && !waiters.isEmpty() && isRequestThere.getAsBoolean()) {
            Waiter next = waiters.pop();
            holder = next.thread;
            next.isHolder.countDown();
        }
    }

    @Override
    public void lockInterruptibly() throws InterruptedException {
        Waiter waiter = new Waiter();
        synchronized (this) {
            waiters.push(waiter);
            onRequest();
        }
        try {
            waiter.isHolder.await();
        } catch (InterruptedException e) {
            synchronized (this) {
                if (!waiters.remove(waiter)) {
                    unlock(); // it was given the lock just now
                }
            }
            throw e;
        }
    }

    @Override
    public synchronized boolean isHeldByCurrentThread() {
        return holder == Thread.currentThread();
    }

    @Override
    public synchronized void unlock() {
        holder = null;
        onRequest();
    }
}
