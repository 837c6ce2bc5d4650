package mme;

import com.amazonaws.ml.mms.http.BadRequestException;
import com.amazonaws.ml.mms.http.InternalServerException;
import com.amazonaws.ml.mms.util.ConfigManager;
import com.amazonaws.ml.mms.util.messages.ModelWorkerResponse;
import com.amazonaws.ml.mms.util.messages.Predictions;
import com.amazonaws.ml.mms.wlm.BatchAggregator;
import com.amazonaws.ml.mms.wlm.Job;
import com.amazonaws.ml.mms.wlm.Model;
import com.amazonaws.ml.mms.wlm.ModelManager;
import com.amazonaws.ml.mms.wlm.WorkLoadManager;
import com.amazonaws.ml.mms.wlm.WorkerState;
import com.amazonaws.ml.mms.wlm.WorkerThread;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.lang.reflect.Field;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.WeakHashMap;
import java.util.concurrent.AbstractExecutorService;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.FutureTask;
import java.util.concurrent.RunnableFuture;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * MMS's WorkLoadManager, mended. Workers and launchers run in threads of their own, one task each (MMS-1). A failed
 * load is forgotten before it is answered (MMS-3). An unloaded model is gone (MMS-4). What no program can be
 * started with is refused, and a launcher that dies as it starts fails its load at once (MMS-6). A model whose workers do not come back is unloaded: {@link LostModels} (MMS-7).
 * What a worker has answered last is heard (MMS-31); what it has not begun goes to the next one (MMS-32, MMS-33).
 */
final class PatchedWorkLoadManager extends WorkLoadManager {
    // In UTF-8 at most three times as many bytes, less than what Linux allows for one (MAX_ARG_STRLEN, 128 KB).
    private static final int LONGEST_ARGUMENT = 30_000;
    private static final long STARTUP_LAUNCHER_MIN = 9;
    private static final long LAUNCHER_ENDS_S = 1;
    private static final int KILLED = 137; // 128 + SIGKILL
    private static final Field AGGREGATOR = Agent.field(WorkerThread.class, "aggregator");
    private static final Field JOBS = Agent.field(BatchAggregator.class, "jobs");
    private static final Field MODEL = Agent.field(WorkerThread.class, "model");
    private static final Field REPLIES = Agent.field(WorkerThread.class, "replies");
    private static final ThreadLocal<Run> CURRENT = new ThreadLocal<>();

    private final Set<Model> started = Collections.synchronizedSet(Collections.newSetFromMap(new WeakHashMap<>()));
    private final Set<Model> loaded = Collections.synchronizedSet(Collections.newSetFromMap(new WeakHashMap<>()));
    private final Map<Model, CompletableFuture<HttpResponseStatus>> starting = new ConcurrentHashMap<>(); // launchers
    private final Map<Model, String> reasons = Collections.synchronizedMap(new WeakHashMap<>()); // of failed loads
    private final WorkerScaling scaling;
    private final LostModels lost;

    PatchedWorkLoadManager(ConfigManager config, LoadPolicy policy, Events events) {
        super(config, new WorkerConnections(config));
        Agent.set(Agent.field(WorkLoadManager.class, "threadPool"), this, new OneTaskThreads());
        scaling = new WorkerScaling(this, policy, events);
        lost = new LostModels(this, policy.unloadHopeless);
    }

    /** What the worker of the thread that asks is at. */
    static Run currentRun() {
        return CURRENT.get();
    }

    /** One run of a worker's or launcher's thread: from the connection to its end. */
    final class Run implements Runnable {
        private final WorkerThread worker;
        private final Model model;
        private final Turn turn;
        private final Batch batch;
        final WorkerStatistics statistics;

        Run(WorkerThread worker) {
            this.worker = worker;
            model = (Model) Agent.get(MODEL, worker);
            statistics = new WorkerStatistics(RequestQueue.of(model).record());
            turn = new Turn(worker);
            batch = new Batch(turn);
            if (!worker.isServerThread()) {
                scaling.startsRun(worker, turn);
            }
        }

        /** Whether the worker may keep the request that its thread has just taken (MMS-34). */
        boolean mayTake() {
            return turn.take();
        }

        @Override
        public void run() {
            if (worker.getState() == WorkerState.WORKER_SCALED_DOWN) { // while it waited to be started again (MMS-35)
                scaling.endsRun(model, worker, turn);
                return;
            }
            CURRENT.set(this);
            Agent.set(JOBS, Agent.get(AGGREGATOR, worker), batch);
            Agent.set(REPLIES, worker, new Replies(batch));
            try {
                worker.run();
            } finally {
                RequestQueue queue = RequestQueue.of(model);
                queue.putBack(batch.takeCollected());
                queue.putBack(batch.takeNeverSent());
                queue.giveAnotherTry(batch.takeNotBegun());
                statistics.onEnded();
                if (worker.isServerThread()) {
                    onLauncherEnded();
                } else {
                    scaling.endsRun(model, worker, turn);
                    lost.onWorkerEnded(model);
                }
            }
        }

        /** MMS goes on to wait where the launcher has not started. */
        private void onLauncherEnded() {
            CompletableFuture<HttpResponseStatus> started = starting.get(model);
            if (started != null) {
                started.complete(
                        wasStarved()
                                ? HttpResponseStatus.INSUFFICIENT_STORAGE
                                : HttpResponseStatus.INTERNAL_SERVER_ERROR);
            }
        }

        /** The zygote kills a launcher that it has no descriptors for; or there was no process to be had for it. */
        private boolean wasStarved() {
            Process process = worker.getLifeCycle().getProcess();
            if (process == null) {
                return canBeEntered(model);
            }
            try {
                return process.waitFor(LAUNCHER_ENDS_S, TimeUnit.SECONDS) && process.exitValue() == KILLED;
            } catch (InterruptedException e) {
                return false;
            }
        }

        /** Called in the thread of the connection. */
        void onLoadAnswered(ModelWorkerResponse answer) {
            if (answer.getCode() == HttpResponseStatus.OK.code()) {
                statistics.onLoaded();
                lost.onWorkerLoaded(model);
            } else {
                reasons.put(model, answer.getMessage());
                lost.onLoadRefused(model, answer.getCode());
            }
        }

        /**
         * Called in the thread of the connection: the clients have their answers before the worker's thread wakes up,
         * which would only hand them on.
         */
        void onBatchAnswered(ModelWorkerResponse answer) {
            statistics.onBatchAnswered();
            if (answer.getCode() == HttpResponseStatus.OK.code()) {
                batch.isAnswered();
                answer.getPredictions().removeIf(this::isDealtOut);
            }
        }

        private boolean isDealtOut(Predictions answer) {
            Job job = batch.remove(answer.getRequestId());
            if (job == null) {
                return false; // MMS says so
            }
            job.response(
                    answer.getResp(),
                    answer.getContentType(),
                    answer.getStatusCode(),
                    answer.getReasonPhrase(),
                    answer.getHeaders());
            return true;
        }

        /** Called in the thread of the connection: the model slept, and its files are not those that it was loaded from. */
        void onModelLost() {
            lost.unload(model);
        }

        /** Called in the thread of the connection: the worker has not begun what it has not answered. */
        void onSessionEnded() {
            batch.sessionHasEnded();
        }

        /** Called in the thread of the connection, before the worker's thread hears of it. */
        void onDisconnected() {
            batch.isDisconnected();
        }
    }

    /** Starts a thread for each task, in which it ends. */
    private final class OneTaskThreads extends AbstractExecutorService {
        @Override
        public void execute(Runnable task) {
            new Thread(task instanceof WorkerThread ? new Run((WorkerThread) task) : task).start();
        }

        @Override
        protected <T> RunnableFuture<T> newTaskFor(Runnable task, T value) {
            return new FutureTask<>(task instanceof WorkerThread ? new Run((WorkerThread) task) : task, value);
        }

        @Override
        public void shutdown() {
            throw new UnsupportedOperationException(); // by nobody: the process ends
        }

        @Override
        public List<Runnable> shutdownNow() {
            throw new UnsupportedOperationException();
        }

        @Override
        public boolean isShutdown() {
            return false;
        }

        @Override
        public boolean isTerminated() {
            return false;
        }

        @Override
        public boolean awaitTermination(long timeout, TimeUnit unit) {
            return false;
        }
    }

    /** Why the last load of the model failed, in its worker's words; null where it did not say. */
    String reasonOfFailure(Model model) {
        return reasons.get(model);
    }

    /** Asked for each request to a model. */
    @Override
    public boolean hasNoWorker(String modelName) {
        if (!super.hasNoWorker(modelName)) {
            return false;
        }
        Model model = ModelManager.getInstance().getModels().get(modelName);
        if (model != null) {
            RequestQueue.of(model).refuse();
        }
        return true;
    }

    @Override
    public void addServerThread(Model model, CompletableFuture<HttpResponseStatus> future)
            throws InterruptedException, ExecutionException, TimeoutException {
        try {
            checkArgument("name", model.getModelName());
            checkArgument("handler", model.getModelArchive().getHandler());
            checkArgument("preload_model", model.preloadModel());
            if (!canBeEntered(model)) {
                throw new InternalServerException(
                        "The model's folder cannot be opened by the user that the server runs as. Give others the right"
                                + " to read it (chmod -R o+rX).");
            }
        } catch (BadRequestException | InternalServerException e) {
            RequestQueue.of(model).record().add(ModelRecord.FAILED_LOADS, 1);
            ModelManager.getInstance().getModels().remove(model.getModelName(), model);
            throw e; // answered 400, or 500
        }
        boolean isStarted = false;
        starting.put(model, future);
        try {
            startLauncher(model, future);
            isStarted = true;
        } finally {
            starting.remove(model);
            if (!isStarted) {
                RequestQueue.of(model).record().add(ModelRecord.FAILED_LOADS, 1);
                ModelManager.getInstance().getModels().remove(model.getModelName(), model);
                model.getServerThread().getLifeCycle().exit();
            }
        }
    }

    private void startLauncher(Model model, CompletableFuture<HttpResponseStatus> future)
            throws InterruptedException, ExecutionException, TimeoutException {
        HttpResponseStatus status;
        try {
            super.addServerThread(model, future); // waits a minute
            status = future.get();
        } catch (TimeoutException e) {
            if (Connection.current() != null) {
                throw new InternalServerException(
                        "The model was not taken on within a minute: what its workers are forked from is not ready.");
            }
            // nobody else is held up: the one model of the server
            status = future.get(STARTUP_LAUNCHER_MIN, TimeUnit.MINUTES);
        } catch (OutOfMemoryError e) {
            throw new InsufficientMemoryException("There is no thread for the model's launcher: " + e.getMessage());
        }
        if (HttpResponseStatus.INSUFFICIENT_STORAGE.equals(status)) {
            throw new InsufficientMemoryException(
                    "The model's launcher was killed as it started: descriptors, process numbers or memory have run out."
                            + " Unload other models, or raise the limits (ulimit -n, docker run --pids-limit).");
        }
        if (!HttpResponseStatus.OK.equals(status)) {
            throw new InternalServerException("The model's launcher ended as it started; the log says why.");
        }
    }

    private static boolean canBeEntered(Model model) {
        Path folder = model.getModelDir().toPath();
        return Files.isReadable(folder) && Files.isExecutable(folder);
    }

    private static void checkArgument(String what, String value) {
        if (value.indexOf('\0') >= 0 || value.length() > LONGEST_ARGUMENT) {
            throw new BadRequestException("The model's " + what + " is too long, or holds a zero character.");
        }
    }

    @Override
    public CompletableFuture<HttpResponseStatus> modelChanged(Model model) {
        if (model.getMaxWorkers() > 0) {
            reasons.remove(model); // of an earlier load
            if (Connection.current() != null) {
                Connection.current().loads(model); // its answer gets the reason, should this one fail
            }
        }
        ModelRecord record = RequestQueue.of(model).record();
        Thread caller = Thread.currentThread();
        boolean isFirst = model.getMinWorkers() > 0 && started.add(model);
        CompletableFuture<HttpResponseStatus> done;
        try {
            if (model.getMaxWorkers() == 0) {
                record.set(ModelRecord.WANTED_WORKERS, 0);
                done = end(model);
            } else if (isFirst) {
                boolean isGiven = Connection.current() != null && Connection.current().givesWorkers();
                done = scaling.begin(model, isGiven);
            } else {
                done = scaling.change(model);
            }
        } catch (OutOfMemoryError e) {
            if (isFirst) {
                record.add(ModelRecord.FAILED_LOADS, 1);
                ModelManager.getInstance().unregisterModel(model.getModelName());
            }
            throw new InsufficientMemoryException("There is no thread for the model's worker: " + e.getMessage());
        }
        if (!isFirst) {
            return done;
        }
        return done.thenApply(
                status -> {
                    if (HttpResponseStatus.OK.equals(status)) {
                        record.add(ModelRecord.LOADS, 1);
                        loaded.add(model);
                        lost.watch(model);
                    } else {
                        record.add(ModelRecord.FAILED_LOADS, 1);
                        forget(model);
                        // MMS answers now, and then unregisters whatever has the name in this thread, its worker's.
                        if (Thread.currentThread() != caller) {
                            ModelRegistry.removeOnly(model);
                        }
                    }
                    return status;
                });
    }

    CompletableFuture<HttpResponseStatus> changeAsMms(Model model) {
        return super.modelChanged(model);
    }

    WorkerScaling scaling() {
        return scaling;
    }

    boolean isLoaded(Model model) {
        return loaded.contains(model);
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
                    // Its last step, which failed, was to put its requests back: RequestQueue answers them.
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

    static Thread unregister(Model model) {
        Runnable work =
                () -> {
                    ModelRegistry.removeOnly(model);
                    ModelManager.getInstance().unregisterModel(model.getModelName());
                };
        Thread thread = new Thread(work, "mms-agent-unregister");
        thread.start();
        return thread;
    }

    /** The model is registered no more. Returns whether it has ever been loaded. */
    boolean hasGone(Model model) {
        lost.forget(model);
        return loaded.remove(model);
    }
}
