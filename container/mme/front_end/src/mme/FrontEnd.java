package mme;

import com.amazonaws.ml.mms.ModelServer;
import com.amazonaws.ml.mms.archive.ModelException;
import com.amazonaws.ml.mms.http.ApiDescriptionRequestHandler;
import com.amazonaws.ml.mms.http.HttpRequestHandler;
import com.amazonaws.ml.mms.http.HttpRequestHandlerChain;
import com.amazonaws.ml.mms.http.InvalidRequestHandler;
import com.amazonaws.ml.mms.http.ManagementRequestHandler;
import com.amazonaws.ml.mms.metrics.MetricManager;
import com.amazonaws.ml.mms.util.ConfigManager;
import com.amazonaws.ml.mms.util.Connector;
import com.amazonaws.ml.mms.util.ConnectorType;
import com.amazonaws.ml.mms.util.ServerGroups;
import com.amazonaws.ml.mms.wlm.ModelManager;
import io.netty.bootstrap.ServerBootstrap;
import io.netty.channel.Channel;
import io.netty.channel.ChannelInitializer;
import io.netty.channel.ChannelOption;
import io.netty.channel.ChannelPipeline;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpServerCodec;
import io.netty.util.internal.logging.InternalLoggerFactory;
import io.netty.util.internal.logging.Slf4JLoggerFactory;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeoutException;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** The front end's life: MMS's parts, put together as its ModelServer does, with the agent's among them. */
final class FrontEnd {
    // Whose lines the log shows as they are, over several lines: the configuration.
    private static final Logger LOGGER = LoggerFactory.getLogger(ModelServer.class);
    private static final int BACKLOG = 1024;

    private final ConfigManager config;
    private final ServerGroups groups;
    private final Traffic traffic = new Traffic();
    private final PatchedWorkLoadManager loads;
    private final ModelRegistry models;
    private final Health health = new Health();
    private final ModelStatistics statistics;
    private final boolean recordsTargets;
    private final int metricsPort;
    private final List<Channel> listeners = new ArrayList<>();

    FrontEnd(ConfigManager config) throws IOException {
        this.config = config;
        InternalLoggerFactory.setDefaultFactory(Slf4JLoggerFactory.INSTANCE);
        LoadPolicy policy = LoadPolicy.read();
        groups = new ServerGroups(config);
        Events events = Events.open(policy);
        loads = new PatchedWorkLoadManager(config, policy, events);
        statistics = ModelStatistics.open();
        recordsTargets = policy.recordsTargets;
        models = new ModelRegistry(policy, statistics, loads, events);
        metricsPort = MetricsEndpoint.readPort();
    }

    /** Serves until the process is ended. */
    void run() throws IOException, InterruptedException {
        config.validateConfigurations();
        LOGGER.info(config.dumpConfigurations());
        ModelManager.init(config, loads);
        Agent.set(Agent.field(ModelManager.class, "models"), ModelManager.getInstance(), models);
        installIdleHeap();
        Control control = new Control(this);
        control.start();
        String startupModel = config.getLoadModels();
        boolean isSingle = startupModel != null && !startupModel.isEmpty();
        if (isSingle) {
            health.startupModelIsLoading();
        }
        listen();
        if (LoggerFactory.getLogger(ConfigManager.MODEL_SERVER_METRICS_LOGGER).isInfoEnabled()) {
            MetricManager.scheduleMetrics(config); // a Python program every minute
        }
        control.say("serving");
        if (isSingle) {
            loadStartupModel(startupModel);
        }
        new CountDownLatch(1).await();
    }

    private static void installIdleHeap() {
        try {
            IdleHeap.install();
        } catch (LinkageError e) {
            LOGGER.debug("this Java runtime is without jdk.management: its heap stays as large as it once was");
        }
    }

    /** Single-model mode: what the toolkit asks for with {@code --models NAME=FOLDER}. */
    private void loadStartupModel(String wanted) throws InterruptedException {
        String name = wanted.substring(0, wanted.indexOf('='));
        ModelManager manager = ModelManager.getInstance();
        try {
            String url = wanted.substring(name.length() + 1);
            int timeoutS = config.getDefaultResponseTimeoutSeconds();
            manager.registerModel(url, name, null, null, 1, 100, timeoutS, name, config.getPreloadModel());
        } catch (InsufficientMemoryException e) {
            health.startupModelHasFailed(HttpResponseStatus.INSUFFICIENT_STORAGE.code(), e.getMessage());
            return;
        } catch (ModelException | IOException | ExecutionException | TimeoutException | RuntimeException e) {
            int status = HttpResponseStatus.INTERNAL_SERVER_ERROR.code();
            health.startupModelHasFailed(status, String.valueOf(e.getMessage()));
            return;
        }
        manager.getStartupModels().add(name);
        var model = models.get(name);
        manager.updateModel(name, config.getDefaultWorkers(), config.getDefaultWorkers())
                .thenAccept(
                        status -> {
                            if (HttpResponseStatus.OK.equals(status)) {
                                health.startupModelIsLoaded();
                            } else {
                                health.startupModelHasFailed(status.code(), loads.reasonOfFailure(model));
                            }
                        });
    }

    private void listen() throws IOException, InterruptedException {
        Connector inference = config.getListener(false);
        Connector management = config.getListener(true);
        if (inference.equals(management)) {
            listen(inference, ConnectorType.BOTH);
        } else {
            listen(inference, ConnectorType.INFERENCE_CONNECTOR);
            listen(management, ConnectorType.MANAGEMENT_CONNECTOR);
        }
    }

    private void listen(Connector connector, ConnectorType type) throws IOException, InterruptedException {
        connector.clean();
        ServerBootstrap bootstrap =
                new ServerBootstrap()
                        .group(groups.getServerGroup(), groups.getChildGroup())
                        .channel(connector.getServerChannel())
                        .option(ChannelOption.SO_BACKLOG, BACKLOG)
                        // not SO_LINGER, which MMS sets to 0 (MMS-30)
                        .childOption(ChannelOption.SO_KEEPALIVE, true)
                        .childHandler(
                                new ChannelInitializer<Channel>() {
                                    @Override
                                    protected void initChannel(Channel channel) {
                                        initialize(channel.pipeline(), type);
                                    }
                                });
        try {
            listeners.add(bootstrap.bind(connector.getSocketAddress()).sync().channel());
            // Epoll's, or the slower one that netty falls back to without its native part; workers' sockets go with it.
            LOGGER.info("listening on {} with {}", connector, connector.getServerChannel().getSimpleName());
        } catch (Exception e) { // netty throws IOException without declaring it
            throw new IOException("nothing can listen at " + connector + ": " + e.getMessage(), e);
        }
    }

    private void initialize(ChannelPipeline pipeline, ConnectorType type) {
        pipeline.addLast("http", new HttpServerCodec());
        Connection connection = new Connection(traffic, health, loads, statistics, recordsTargets);
        pipeline.addLast("counter", connection.counter());
        pipeline.addLast("aggregator", new BodyAggregator(config.getMaxRequestSize(), statistics));
        pipeline.addLast("connection", connection);
        HttpRequestHandlerChain first = new ApiDescriptionRequestHandler(type);
        HttpRequestHandlerChain last = first;
        if (type != ConnectorType.MANAGEMENT_CONNECTOR) {
            last = last.setNextHandler(new MetricsEndpoint.Handler(metricsPort));
        }
        if (type != ConnectorType.INFERENCE_CONNECTOR) {
            last = last.setNextHandler(new ManagementRequestHandler(Collections.emptyMap()));
        }
        last.setNextHandler(new InvalidRequestHandler());
        pipeline.addLast("handler", new HttpRequestHandler(first));
    }

    /** New connections are refused from here on, new requests on open ones are answered 503. */
    void drain() throws InterruptedException {
        for (Channel listener : listeners) {
            listener.close().sync();
        }
        traffic.drain(); // last: who is answered 503 is not to find the listener open once more
    }

    void scale(String model, int workers) {
        loads.scaling().scale(model, workers);
    }

    Traffic traffic() {
        return traffic;
    }

    Health health() {
        return health;
    }
}
