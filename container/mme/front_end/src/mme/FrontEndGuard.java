package mme;

import com.amazonaws.ml.mms.http.BadRequestException;
import com.amazonaws.ml.mms.util.ConfigManager;
import com.amazonaws.ml.mms.wlm.Job;
import com.amazonaws.ml.mms.wlm.Model;
import com.amazonaws.ml.mms.wlm.ModelManager;
import com.amazonaws.ml.mms.wlm.WorkLoadManager;
import com.amazonaws.ml.mms.wlm.WorkerThread;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.lang.instrument.Instrumentation;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.WeakHashMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.SynchronousQueue;
import java.util.concurrent.ThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Runs inside Multi Model Server's JVM (-javaagent) and makes good what 1.1.11 gets wrong when models are unloaded and
 * loads fail. It changes none of its classes, but puts a subclass of WorkLoadManager in the place of the original.
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
 * <p>3. An answer to everybody. Requests that wait in the queue of a model that is unregistered, or are put back there
 * because their worker is stopped, are never answered. They are answered 503 here.
 *
 * <p>4. An unloaded model is gone. Where a worker answers in the very moment in which it is stopped, the two threads meet
 * in a list (BatchAggregator.sendError), the stopping one fails, and the other workers and the launcher live on for ever.
 *
 * <p>5. A name, or another word of a request, that no program can be started with (it holds a zero, or is too long) is refused. MMS fails to
 * start the launcher, but waits for it for a minute, in the thread that serves other connections, and keeps the model.
 */
public final class FrontEndGuard implements Runnable {
    private static final String MANAGER = "com.amazonaws.ml.mms.wlm.ModelManager";
    private static final String REQUESTS = "DATA_QUEUE"; // Model.DEFAULT_DATA_QUEUE
    private static final long START_POLL_MS = 5;
    private static final long POLL_MS = 25;
    // How long after its end requests may still arrive in a model's queue.
    private static final long AFTERLIFE_NS = TimeUnit.SECONDS.toNanos(10);
    // In UTF-8 at most three times as many bytes, less than what Linux allows for one (MAX_ARG_STRLEN, 128 KB).
    private static final int LONGEST_ARGUMENT = 30_000;

    private final Instrumentation instrumentation;
    private Set<Model> known = identitySet();
    private final Map<Model, Long> unloaded = new IdentityHashMap<>(); // until when they are looked after
    private Logger logger;

    private FrontEndGuard(Instrumentation instrumentation) {
        this.instrumentation = instrumentation;
    }

    /** What the JVM calls before MMS's own main. */
    public static void premain(String arguments, Instrumentation instrumentation) {
        Thread thread = new Thread(new FrontEndGuard(instrumentation), "front-end-guard");
        thread.setDaemon(true);
        thread.start();
    }

    @Override
    public void run() {
        try {
            ModelManager manager = manager();
            logger = LoggerFactory.getLogger(FrontEndGuard.class);
            replaceWorkLoadManager(manager);
            Field queues = accessible(Model.class, "jobsDb");
            while (true) {
                answerForgottenRequests(manager, queues);
                Thread.sleep(POLL_MS);
            }
        } catch (InterruptedException | ReflectiveOperationException | RuntimeException | LinkageError e) {
            System.err.println("front-end-guard ended, models may disturb each other: " + e);
        }
    }

    /** Waits until MMS has made it. Loads none of its classes before MMS does. */
    private ModelManager manager() throws InterruptedException {
        while (!isLoaded() || ModelManager.getInstance() == null) {
            Thread.sleep(START_POLL_MS);
        }
        return ModelManager.getInstance();
    }

    private boolean isLoaded() {
        for (Class<?> each : instrumentation.getAllLoadedClasses()) {
            if (each.getName().equals(MANAGER)) {
                return true;
            }
        }
        return false;
    }

    private static void replaceWorkLoadManager(ModelManager manager) throws ReflectiveOperationException {
        Field field = accessible(ModelManager.class, "wlm");
        field.set(manager, new GuardedManager((WorkLoadManager) field.get(manager), ConfigManager.getInstance()));
    }

    /** MMS's own, but for loads that fail. Shares everything with the one that it takes the place of. */
    private static final class GuardedManager extends WorkLoadManager {
        private final Set<Model> started = Collections.synchronizedSet(Collections.newSetFromMap(new WeakHashMap<>()));

        GuardedManager(WorkLoadManager original, ConfigManager config) throws ReflectiveOperationException {
            super(config, null);
            for (Field each : WorkLoadManager.class.getDeclaredFields()) {
                if (!Modifier.isStatic(each.getModifiers())) {
                    each.setAccessible(true);
                    each.set(this, each.get(original));
                }
            }
            // Without time to wait for another task a thread ends with its first.
            accessible(WorkLoadManager.class, "threadPool")
                    .set(
                            this,
                            new ThreadPoolExecutor(
                                    0, Integer.MAX_VALUE, 0, TimeUnit.NANOSECONDS, new SynchronousQueue<>()));
        }

        @Override
        public void addServerThread(Model model, CompletableFuture<HttpResponseStatus> future)
                throws InterruptedException, ExecutionException, TimeoutException {
            try {
                checkArgument("name", model.getModelName());
                checkArgument("handler", model.getModelArchive().getHandler());
                checkArgument("preload_model", model.preloadModel());
            } catch (BadRequestException e) {
                ModelManager.getInstance().getModels().remove(model.getModelName(), model);
                throw e; // answered 400
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
            boolean isFirst = model.getMinWorkers() > 0 && started.add(model);
            CompletableFuture<HttpResponseStatus> done = model.getMaxWorkers() == 0 ? end(model) : super.modelChanged(model);
            if (!isFirst) {
                return done;
            }
            return done.thenApply(
                    status -> {
                        if (!HttpResponseStatus.OK.equals(status)) {
                            forget(model);
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
                        // Its last step, which failed, was to put its requests back: see answerForgottenRequests.
                    }
                }
                return super.modelChanged(model); // The workers are forgotten, the launcher is left.
            }
        }

        /** Unregisters the model. In a thread of its own: this one, a worker's, is interrupted by that. */
        private static void forget(Model model) {
            ModelManager manager = ModelManager.getInstance();
            if (manager.getModels().get(model.getModelName()) != model) {
                return; // somebody else did
            }
            Thread thread = new Thread(() -> manager.unregisterModel(model.getModelName()), "front-end-guard-forget");
            thread.start();
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
    }

    private void answerForgottenRequests(ModelManager manager, Field queues) throws ReflectiveOperationException {
        Set<Model> current = identitySet();
        current.addAll(manager.getModels().values());
        long now = System.nanoTime();
        for (Model model : known) {
            if (!current.contains(model)) {
                unloaded.put(model, now + AFTERLIFE_NS);
            }
        }
        known = current;
        unloaded.keySet().removeAll(current); // MMS puts a model back where it could not end its process
        for (Iterator<Map.Entry<Model, Long>> each = unloaded.entrySet().iterator(); each.hasNext(); ) {
            Map.Entry<Model, Long> entry = each.next();
            answerAll(entry.getKey(), queues);
            if (now - entry.getValue() > 0) {
                each.remove();
            }
        }
    }

    @SuppressWarnings("unchecked")
    private void answerAll(Model model, Field queues) throws ReflectiveOperationException {
        Queue<Job> waiting = ((Map<String, ? extends Queue<Job>>) queues.get(model)).get(REQUESTS);
        int answered = 0;
        for (Job job = waiting.poll(); job != null; job = waiting.poll()) {
            job.sendError(HttpResponseStatus.SERVICE_UNAVAILABLE, "The model was unloaded.");
            answered++;
        }
        if (answered > 0) {
            logger.info("model {} was unloaded: {} waiting requests are answered 503", model.getModelName(), answered);
        }
    }

    private static Field accessible(Class<?> owner, String name) throws ReflectiveOperationException {
        Field field = owner.getDeclaredField(name);
        field.setAccessible(true);
        return field;
    }

    private static Set<Model> identitySet() {
        return Collections.newSetFromMap(new IdentityHashMap<>());
    }
}
