package mme;

import com.amazonaws.ml.mms.http.BadRequestException;
import com.amazonaws.ml.mms.http.InternalServerException;
import com.amazonaws.ml.mms.util.ConfigManager;
import com.amazonaws.ml.mms.wlm.BatchAggregator;
import com.amazonaws.ml.mms.wlm.Model;
import com.amazonaws.ml.mms.wlm.ModelManager;
import com.amazonaws.ml.mms.wlm.WorkLoadManager;
import com.amazonaws.ml.mms.wlm.WorkerState;
import com.amazonaws.ml.mms.wlm.WorkerThread;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.nio.file.Files;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.WeakHashMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.RunnableFuture;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.slf4j.Logger;

/**
 * In the place of MMS's WorkLoadManager, with which it shares everything.
 *
 * <p>1. A thread per task. WorkerThread.run of a launcher whose process has died ends in a NullPointerException before
 * it forgets its thread. When the model is unregistered, WorkerThread.shutdown interrupts whatever that thread of the
 * pool does by then: the load of another model, which fails or is never answered, or the wait for the answer to another
 * model's request. A load that is refused for lack of memory always leads there. An interrupt of a thread that has ended
 * does nothing, so the pool's threads do one task each here.
 *
 * <p>2. A failed load is forgotten before it is answered. MMS answers first, so that who tries again at once is answered
 * 409, and it unregisters the model in a thread that it has interrupted itself, which can fail.
 *
 * <p>3. An unloaded model is gone. Where a worker answers in the very moment in which it is stopped, the two threads meet
 * in a list (BatchAggregator.sendError), the stopping one fails, and the other workers and the launcher live on for ever.
 *
 * <p>4. A word of a request that no program can be started with (it holds a zero, or is too long) is refused, and so is a
 * folder that none can be started in. MMS fails to start the launcher, but waits for it for a minute, in the thread that
 * serves other connections, and keeps the model.
 *
 * <p>5. A model whose last worker has died, and whose next ones do not load, is unloaded. MMS tries for ever, after
 * longer and longer pauses, while requests wait.
 *
 * <p>6. A batch that failed as a whole is answered as a whole ({@link Batch}).
 */
final class GuardedManager extends WorkLoadManager {
    // In UTF-8 at most three times as many bytes, less than what Linux allows for one (MAX_ARG_STRLEN, 128 KB).
    private static final int LONGEST_ARGUMENT = 30_000;
    // A model is hopeless where each of its workers has failed to come back so often in a row (MMS tries after 1, 1, 2, 3 …
    // seconds), or at least once and there has been none for so long (a load may hang until it times out).
    private static final int HOPELESS_TRIES = 3;
    private static final long HOPELESS_NS = TimeUnit.SECONDS.toNanos(30);

    private final Rules rules;
    private final Set<Model> started = Collections.synchronizedSet(Collections.newSetFromMap(new WeakHashMap<>()));
    private final Set<Model> serving = ConcurrentHashMap.newKeySet();
    private final Map<Model, Long> lostSince = new HashMap<>(); // there was a worker, and is none: System.nanoTime
    private final Field backoff = FrontEndGuard.accessible(WorkerThread.class, "backoffIdx");

    GuardedManager(WorkLoadManager original, ConfigManager config, Rules rules) throws ReflectiveOperationException {
        super(config, null);
        this.rules = rules;
        for (Field each : WorkLoadManager.class.getDeclaredFields()) {
            if (!Modifier.isStatic(each.getModifiers())) {
                each.setAccessible(true);
                each.set(this, each.get(original));
            }
        }
        FrontEndGuard.accessible(WorkLoadManager.class, "threadPool").set(this, new OneTaskThreads());
    }

    /** Starts a thread for each task, in which it ends. */
    private static final class OneTaskThreads extends ThreadPoolExecutor {
        private final Field aggregator = FrontEndGuard.accessible(WorkerThread.class, "aggregator");
        private final Field jobs = FrontEndGuard.accessible(BatchAggregator.class, "jobs");

        OneTaskThreads() throws ReflectiveOperationException {
            super(0, Integer.MAX_VALUE, 0, TimeUnit.NANOSECONDS, new SynchronousQueue<>());
        }

        @Override
        protected <T> RunnableFuture<T> newTaskFor(Runnable task, T value) {
            if (task instanceof WorkerThread) { // before its first start
                try {
                    jobs.set(aggregator.get(task), new Batch());
                } catch (IllegalAccessException e) {
                    throw new AssertionError(e); // it has been made accessible
                }
            }
            return super.newTaskFor(task, value);
        }
    }

    @Override
    public void addServerThread(Model model, CompletableFuture<HttpResponseStatus> future)
            throws InterruptedException, ExecutionException, TimeoutException {
        try {
            checkArgument("name", model.getModelName());
            checkArgument("handler", model.getModelArchive().getHandler());
            checkArgument("preload_model", model.preloadModel());
            if (!Files.isReadable(model.getModelDir().toPath()) || !Files.isExecutable(model.getModelDir().toPath())) {
                throw new InternalServerException(
                        "The model's folder cannot be opened by the user that the server runs as. Give others the right to"
                                + " read it (chmod -R o+rX).");
            }
        } catch (BadRequestException | InternalServerException e) {
            ModelManager.getInstance().getModels().remove(model.getModelName(), model);
            throw e; // answered 400, or 500
        }
        super.addServerThread(model, future);
    }

    private static void checkArgument(String what, String value) {
        if (value.indexOf('\0') >= 0 || value.length() > LONGEST_ARGUMENT) {
            throw new BadRequestException("The model's " + what + " is too long, or holds a zero character.");
        }
    }

    @Override
    public CompletableFuture<HttpResponseStatus> modelChanged(Model model) {
        Thread caller = Thread.currentThread();
        boolean isFirst = model.getMinWorkers() > 0 && started.add(model);
        CompletableFuture<HttpResponseStatus> done = model.getMaxWorkers() == 0 ? end(model) : super.modelChanged(model);
        if (!isFirst) {
            return done;
        }
        return done.thenApply(
                status -> {
                    if (HttpResponseStatus.OK.equals(status)) {
                        serving.add(model);
                    } else {
                        forget(model);
                        // MMS answers now, and then unregisters whatever has the name in this thread, its worker's.
                        if (Thread.currentThread() != caller) {
                            GuardedModels.removeOnly(model);
                        }
                    }
                    return status;
                });
    }

    /** Ends the workers and the launcher of a model, whatever happens to one of them. */
    private CompletableFuture<HttpResponseStatus> end(Model model) {
        List<WorkerThread> workers = getWorkers(model.getModelName());
        try {
            return super.modelChanged(model);
        } catch (RuntimeException e) {
            for (WorkerThread worker : workers) {
                try {
                    worker.shutdown();
                } catch (RuntimeException again) {
                    // Its last step, which failed, was to put its requests back: FrontEndGuard answers them.
                }
            }
            return super.modelChanged(model); // The workers are forgotten, the launcher is left.
        }
    }

    /** Unregisters the model. In a thread of its own: this one, a worker's, is interrupted by that. */
    private static void forget(Model model) {
        if (ModelManager.getInstance().getModels().get(model.getModelName()) != model) {
            return; // somebody else did
        }
        Thread thread = unregister(model);
        boolean interrupted = false;
        while (thread.isAlive()) {
            try {
                thread.join();
            } catch (InterruptedException e) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private static Thread unregister(Model model) {
        Runnable work =
                () -> {
                    GuardedModels.removeOnly(model);
                    ModelManager.getInstance().unregisterModel(model.getModelName());
                };
        Thread thread = new Thread(work, "front-end-guard-unregister");
        thread.start();
        return thread;
    }

    /** To be called again and again. The requests that wait are answered 503, later ones 404: it can be loaded anew. */
    void unloadHopeless(Logger logger) {
        if (!rules.unloadHopeless) {
            return;
        }
        Map<String, Model> registered = ModelManager.getInstance().getModels();
        long now = System.nanoTime();
        for (Model model : serving) {
            String name = model.getModelName();
            if (registered.get(name) != model) {
                serving.remove(model);
                lostSince.remove(model);
                continue;
            }
            List<WorkerThread> workers = getWorkers(name);
            if (workers.isEmpty() || workers.stream().anyMatch(GuardedManager::isLoaded)) {
                lostSince.remove(model);
                continue;
            }
            long since = lostSince.computeIfAbsent(model, lost -> now);
            int least = now - since >= HOPELESS_NS ? 1 : HOPELESS_TRIES;
            if (workers.stream().allMatch(worker -> failedTries(worker) >= least)) {
                lostSince.put(model, now); // should this unload fail, there will be another
                logger.error("model {} has had no worker for {} s, and gets none: it is unloaded", name, (now - since) / 1_000_000_000);
                unregister(model);
            }
        }
    }

    private static boolean isLoaded(WorkerThread worker) {
        return worker.getState() == WorkerState.WORKER_MODEL_LOADED;
    }

    /** How often in a row it has failed to come back: its ends in a row, but for that of the worker that was loaded. */
    private int failedTries(WorkerThread worker) {
        try {
            return backoff.getInt(worker) - 1;
        } catch (IllegalAccessException e) {
            throw new AssertionError(e); // it has been made accessible
        }
    }
}
