package mme;

import com.amazonaws.ml.mms.util.ConfigManager;
import com.amazonaws.ml.mms.wlm.Job;
import com.amazonaws.ml.mms.wlm.Model;
import com.amazonaws.ml.mms.wlm.ModelManager;
import com.amazonaws.ml.mms.wlm.WorkLoadManager;
import io.netty.handler.codec.http.HttpResponseStatus;
import java.io.IOException;
import java.lang.instrument.Instrumentation;
import java.lang.reflect.Field;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.Iterator;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * Runs inside Multi Model Server's JVM (-javaagent) and makes good what 1.1.11 gets wrong when models are loaded, fail
 * and are unloaded. It changes none of its classes, but puts objects of our own in the place of some of its own:
 *
 * <ul>
 *   <li>{@link GuardedModels}: which models may be registered, and who may remove one;
 *   <li>{@link GuardedManager}: failed loads, unloads, workers that do not come back, batches that fail as a whole;
 *   <li>{@link LoadRequests}: bodies of POST /models that are none;
 *   <li>here: an answer to everybody. Requests that wait in the queue of a model that is unregistered, or are put back
 *       there because their worker is stopped, are never answered by MMS. They are answered 503.
 * </ul>
 */
public final class FrontEndGuard implements Runnable {
    // Made by MMS when its logging works, and just before the ModelManager, which holds it.
    private static final String MANAGER = "com.amazonaws.ml.mms.wlm.WorkLoadManager";
    private static final String REQUESTS = "DATA_QUEUE"; // Model.DEFAULT_DATA_QUEUE
    private static final long START_POLL_MS = 5;
    private static final long POLL_MS = 25;
    // How long after its end requests may still arrive in a model's queue.
    private static final long AFTERLIFE_NS = TimeUnit.SECONDS.toNanos(10);

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
            GuardedManager guarded = install(manager, Rules.read());
            Field queues = accessible(Model.class, "jobsDb");
            while (true) {
                look(guarded, manager, queues);
                Thread.sleep(POLL_MS);
            }
        } catch (InterruptedException | IOException | ReflectiveOperationException | RuntimeException | LinkageError e) {
            System.err.println("front-end-guard ended, models may disturb each other: " + e);
        }
    }

    private void look(GuardedManager guarded, ModelManager manager, Field queues) throws ReflectiveOperationException {
        try {
            guarded.unloadHopeless(logger);
            answerForgottenRequests(manager, queues);
        } catch (RuntimeException e) {
            logger.error("front-end-guard", e); // the next look may go well
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

    private GuardedManager install(ModelManager manager, Rules rules) throws ReflectiveOperationException {
        Field field = accessible(ModelManager.class, "wlm");
        WorkLoadManager original = (WorkLoadManager) field.get(manager);
        GuardedManager guarded = new GuardedManager(original, ConfigManager.getInstance(), rules);
        field.set(manager, guarded);
        accessible(ModelManager.class, "models").set(manager, new GuardedModels(manager.getModels(), rules));
        LoadRequests.install();
        try {
            IdleHeap.install();
        } catch (LinkageError e) {
            logger.debug("this Java runtime is without jdk.management: its heap stays as large as it once was");
        }
        return guarded;
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

    static Field accessible(Class<?> owner, String name) throws ReflectiveOperationException {
        Field field = owner.getDeclaredField(name);
        field.setAccessible(true);
        return field;
    }

    private static Set<Model> identitySet() {
        return Collections.newSetFromMap(new IdentityHashMap<>());
    }
}
